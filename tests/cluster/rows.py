"""Writes rows of completions in the form that SOFT+'s filter reads, of which it drops some: PATH COUNT."""

import json
import random
import sys

QUESTIONS = ["Why is the sky blue", "How do I boil an egg", "What is a good way to learn chess", "Who wrote Faust"]
WORDS = (
    "water air light heat time answer because therefore often rarely people learn read write small large good "
    "simple first second then after before while when where which that this those these every each some many"
).split()


def main() -> None:
    path, count = sys.argv[1], int(sys.argv[2])
    draw = random.Random(11)
    with open(path, "w") as file:
        for number in range(count):
            words = [draw.choice(WORDS) for _ in range(draw.randint(4, 60))]
            if number % 11 == 0:
                words = words[:3] * 40
            text = " ".join(words).capitalize() + "."
            row = {
                "id": f"row-{number}",
                "prompt": f"{draw.choice(QUESTIONS)}, number {number}?",
                "completion": text,
                "finish": "length" if number % 17 == 0 else "stop",
                "source": draw.choice(["forum", "book"]),
            }
            file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
