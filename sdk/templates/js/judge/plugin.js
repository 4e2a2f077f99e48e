import { InputError, Plugin, completions, rewards, transcript, unparsable, user } from './aligner-sdk/index.js';

const question = (message, answer) => `Grade the answer to the message from 1 (useless) to 10 (could not be better).

[Message]
${message}

[Answer]
${answer}

[End]

Reply with the grade, a number, and nothing else.`;

/** Asks a model for a grade of each completion. */
export class MyPlugin extends Plugin {
  static about = {
    name: 'my-plugin',
    version: '0.1.0',
    summary: 'Asks a model for a grade of each completion.',
  };
  static config = { model: { type: 'string', default: 'policy' } };

  /** @type {import('./aligner-sdk/index.js').Judge['judge']} */
  judge(context, record, ask) {
    const completed = completions(record);
    if (!completed.length) throw new InputError('no variant is completed');
    const message = transcript(record.prompt.text).trim();
    const decoding = { temperature: 0, maxNewTokens: 8 };
    // Ends here until the host has answered; then all of it runs again, and goes on.
    const answers = ask.all(
      completed.map(([, { text }]) => ({
        tag: 'generate',
        val: { model: this.config.model, prompt: user(question(message, text.trim())), decoding },
      })),
    );

    const graded = [];
    for (const [i, answer] of answers.entries()) {
      const { name } = completed[i][0];
      const said = answer.tag === 'completion' ? answer.val.text : '';
      const grade = said.match(/\b(10|[1-9])\b/u);
      if (!grade) return unparsable(`no grade for \`${name}\`: ${said}`);
      graded.push({ variant: name, name: 'quality', value: Number(grade[1]) });
    }
    return rewards(graded);
  }
}
