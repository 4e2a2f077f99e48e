const MASK = (1n << 64n) - 1n;

/** A small generator of random numbers, equal on every machine and in every release: SplitMix64. */
export class Rng {
  #state;

  /** Starts the sequence of `seed`, a whole number or a BigInt. Equal seeds give equal sequences. */
  constructor(seed) {
    this.#state = BigInt(seed) & MASK;
  }

  /** Returns 64 random bits, as a BigInt. */
  bits() {
    this.#state = (this.#state + 0x9e3779b97f4a7c15n) & MASK;
    let z = this.#state;
    z = ((z ^ (z >> 30n)) * 0xbf58476d1ce4e5b9n) & MASK;
    z = ((z ^ (z >> 27n)) * 0x94d049bb133111ebn) & MASK;
    return z ^ (z >> 31n);
  }

  /** Returns a number in [0, 1), uniform over multiples of 2⁻⁵³. */
  uniform() {
    return Number(this.bits() >> 11n) / 2 ** 53;
  }

  /** Returns a whole number below `n`, each equally likely; 0 where `n` is 0. */
  below(n) {
    return Number((this.bits() * BigInt(n)) >> 64n);
  }

  /** Puts the items of an array in a random order. */
  shuffle(items) {
    for (let i = items.length - 1; i > 0; i--) {
      const j = this.below(i + 1);
      [items[i], items[j]] = [items[j], items[i]];
    }
  }

  /** Returns `k` different indices below `n` in random order, or all of them where `k` is larger. */
  choose(k, n) {
    const indices = Array.from({ length: n }, (_, i) => i);
    k = Math.min(k, n);
    for (let i = 0; i < k; i++) {
      const j = i + this.below(n - i);
      [indices[i], indices[j]] = [indices[j], indices[i]];
    }
    return indices.slice(0, k);
  }
}
