/**
 * Checks what an author's plugin gives back, and lays it out as the contract has it. A value of the wrong
 * type would end the component in a trap that says nothing.
 */
import { InternalError } from './errors.js';

/** @param {string} what @param {unknown} it */
export function text(what, it) {
  if (typeof it !== 'string') throw wrong(what, 'a string', it);
  if (!it.isWellFormed()) throw new InternalError(`${what} has half of a surrogate pair in it: ${shown(it)}`);
  return it;
}

export function number(what, it) {
  if (typeof it !== 'number') throw wrong(what, 'a number', it);
  return it;
}

function whole(what, it, most) {
  if (!Number.isInteger(it) || it < 0 || it > most) throw wrong(what, `a whole number from 0 to ${most}`, it);
  return it;
}

/** Lays out a request's seed. Out of a component a number is all that there is, of 53 bits. */
function seed(it) {
  const fits = typeof it === 'bigint' && it <= Number.MAX_SAFE_INTEGER;
  return whole('the seed', fits ? Number(it) : it, Number.MAX_SAFE_INTEGER);
}

export function list(what, it, each) {
  if (!Array.isArray(it)) throw wrong(what, 'an array', it);
  return it.map(each);
}

export const texts = (what, it) => list(what, it, (one) => text(what, one));

function object(what, it) {
  if (it === null || typeof it !== 'object') throw wrong(what, 'an object', it);
  if (typeof it.then === 'function') throw new InternalError(`${what} is a promise; a plugin awaits nothing`);
  return it;
}

function oneOf(what, it, words) {
  if (!words.includes(it)) throw wrong(what, `one of ${words.join(', ')}`, it);
  return it;
}

/** Lays out a case of a variant by its tag. */
function tagged(what, it, cases) {
  const { tag, val } = object(what, it);
  if (!Object.hasOwn(cases, tag)) throw wrong(what, `tagged ${Object.keys(cases).join(', ')}`, it);
  return cases[tag] ? { tag, val: cases[tag](val) } : { tag };
}

function optional(it, lay) {
  return it === undefined || it === null ? null : lay(it);
}

export function prompt(it) {
  return tagged('a prompt', it, {
    raw: (val) => text('a raw prompt', val),
    chat: (val) =>
      list('the messages', val, (one) => ({
        speaker: oneOf('the speaker', object('a message', one).speaker, ['system', 'user', 'assistant']),
        content: text('a message', one.content),
      })),
  });
}

export function decoding(it) {
  const { temperature, topP, topK, repetitionPenalty, maxNewTokens, stop } = object('the decoding', it);
  return {
    temperature: optional(temperature, (one) => number('temperature', one)),
    topP: optional(topP, (one) => number('topP', one)),
    topK: optional(topK, (one) => whole('topK', one, 2 ** 32 - 1)),
    repetitionPenalty: optional(repetitionPenalty, (one) => number('repetitionPenalty', one)),
    maxNewTokens: optional(maxNewTokens, (one) => whole('maxNewTokens', one, 2 ** 32 - 1)),
    stop: optional(stop, (one) => texts('stop', one)),
  };
}

export function request(it) {
  const scored = (val) => ({
    model: text('the model', object('a request', val).model),
    prompt: prompt(val.prompt),
    completion: text('a completion', val.completion),
  });
  return tagged('a request', it, {
    generate: (val) => ({
      model: text('the model', object('a request', val).model),
      prompt: prompt(val.prompt),
      decoding: decoding(val.decoding ?? {}),
      seed: seed(val.seed ?? 0),
    }),
    score: scored,
    reward: scored,
  });
}

export function verdict(it) {
  return tagged('a verdict', it, {
    keep: null,
    drop: (val) => text('a drop reason', val),
    revise: (val) =>
      list('the revisions', val, (one) => ({
        variant: text("a variant's name", object('a revision', one).variant),
        text: text('a new text', one.text),
        finish: oneOf('the finish', one.finish ?? 'stop', ['stop', 'length']),
      })),
  });
}

export function opinion(it) {
  return tagged('an opinion', it, {
    rewards: (val) =>
      list('the rewards', val, (one) => ({
        variant: text("a variant's name", object('a reward', one).variant),
        name: text("a reward's name", one.name),
        value: number('a reward', one.value),
      })),
    preference: (val) => ({
      chosen: text('chosen', object('a preference', val).chosen),
      rejected: text('rejected', val.rejected),
    }),
    tie: null,
    unparsable: (val) => text('what could not be read', val),
  });
}

export function variants(it) {
  return list('the variants', it, (one) => {
    const { name, role, prompt: put, completion } = object('a variant', one);
    if (completion) throw new InternalError(`variant \`${name}\` has a completion; these are the model's`);
    return {
      name: text("a variant's name", name),
      role: oneOf('the role', role, ['plain', 'good', 'bad']),
      prompt: prompt(put),
      completion: null,
    };
  });
}

export function prompts(it) {
  return list('the prompts', it, (one) => ({
    id: text('an id', object('a prompt', one).id ?? ''),
    text: prompt(one.text),
    tags: texts('the tags', one.tags ?? []),
  }));
}

export function exemplars(it) {
  return list('the catalogue', it, (one) => ({
    id: text('an id', object('an exemplar', one).id),
    tags: texts('the tags', one.tags ?? []),
    text: text('a text', one.text),
  }));
}

export function equipment(it) {
  const { exemplars: ids, decoding: how } = object('an equipment', it);
  return { exemplars: texts('the exemplars', ids ?? []), decoding: decoding(how ?? {}) };
}

function wrong(what, expected, it) {
  return new InternalError(`${what} must be ${expected}, not ${shown(it)}`);
}

function shown(it) {
  const text = typeof it === 'object' && it !== null ? JSON.stringify(it) : String(it);
  return text.slice(0, 80).toWellFormed();
}
