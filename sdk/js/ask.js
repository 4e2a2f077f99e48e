import { InternalError, UnansweredError } from './errors.js';
import { Rng } from './rng.js';

/** No failure: an answer is not there yet. */
class Pending {}

/**
 * A record's conversation with the models, replayed from the answers it has had so far.
 *
 * Where the answer is not there yet, a method that asks ends the call; the host carries out the requests of
 * the whole stage and calls again, and the plugin's method runs from its beginning with more answers at
 * hand. So it must come to the same requests each time: it may depend on the record, the configuration and
 * `seed`, which is all a plugin can see. What it throws or returns before an answer is there does not count,
 * so a `catch` does no harm.
 *
 * Requests that do not depend on each other are best made together, with `all`: the host then carries them
 * out in one go.
 */
export class Ask {
  /** What has been asked and is not answered. */
  #pending = [];
  #answers;

  constructor(seed, answers) {
    /** Drawn from (run seed, round, stage, record): a BigInt of 64 bits. */
    this.seed = BigInt(seed);
    this.#answers = answers[Symbol.iterator]();
  }

  /** Returns a generator of random numbers that starts at the record's seed. Each call returns the same. */
  rng() {
    return new Rng(this.seed);
  }

  /**
   * Asks a model (`policy`, `initial`, `previous`, or a name from `[models]`) for a completion. What
   * `decoding` leaves open is taken from `[generate]`; `seed`, under 2⁵³, tells requests apart that are otherwise
   * equal. Throws `UnansweredError` where the host could not carry it out.
   */
  generate(model, prompt, decoding = {}, seed = 0) {
    return only('completion', this.all([{ tag: 'generate', val: { model, prompt, decoding, seed } }]));
  }

  /** Asks a model how likely a completion of a prompt is. Throws as `generate` does. */
  score(model, prompt, completion) {
    return only('score', this.all([{ tag: 'score', val: { model, prompt, completion } }]));
  }

  /**
   * Asks a reward model (a name from `[models]`, or what a round saved) what it gives a completion of a
   * prompt. Throws as `generate` does.
   */
  reward(model, prompt, completion) {
    return only('reward', this.all([{ tag: 'reward', val: { model, prompt, completion } }]));
  }

  /**
   * Makes several requests at once. Returns one answer for each, in the same order, as `{ tag, val }`; what
   * could not be carried out is `{ tag: 'unanswered', val: why }`.
   */
  all(requests) {
    const answers = [];
    const missing = [];
    for (const request of requests) {
      const next = missing.length ? { done: true } : this.#answers.next();
      if (next.done) missing.push(request);
      else answers.push(next.value);
    }
    if (missing.length || this.#pending.length) {
      // A plugin that went on regardless guesses; only what it asked before counts.
      if (!this.#pending.length) this.#pending = missing;
      throw new Pending();
    }
    return answers;
  }

  /** Works on one record. Returns `{ done }`, or `{ ask }` with the requests that have no answer yet. */
  static converse(seed, answers, work) {
    const ask = new Ask(seed, answers);
    try {
      const done = work(ask);
      return ask.#pending.length ? { ask: ask.#pending } : { done };
    } catch (error) {
      if (ask.#pending.length) return { ask: ask.#pending };
      throw error;
    }
  }
}

function only(tag, [answer]) {
  if (answer.tag === tag) return answer.val;
  if (answer.tag === 'unanswered') throw new UnansweredError(answer.val);
  throw new InternalError(`a ${answer.tag} came for another request`);
}
