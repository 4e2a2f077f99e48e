/** What makes records, texts and results handy. All of them are plain objects, as in the contract. */
import { InputError } from './errors.js';

/** Returns the variant of that name, or `undefined`. */
export function variant(record, name) {
  return record.variants.find((it) => it.name === name);
}

/** Returns every completion there is, each with its variant: `[[variant, completion], …]`. */
export function completions(record) {
  return record.variants.filter((it) => it.completion).map((it) => [it, it.completion]);
}

/** Returns the measurement of that name, or `undefined`. */
export function measurement(record, name) {
  return record.measurements.find((it) => it.name === name)?.value;
}

/** Returns a judge's number for the completion of a variant, or `undefined`. */
export function reward(record, variant, name) {
  return record.rewards.find((it) => it.variant === variant && it.name === name)?.value;
}

/** Returns `exp(-logprob / tokens)` of a score, at least 1. */
export function perplexity({ logprob, tokens }) {
  return Math.exp(-logprob / tokens);
}

/** Returns a prompt that is tokenised as it stands. */
export const raw = (text) => ({ tag: 'raw', val: text });
/** Returns a prompt that is rendered with the model's chat template. */
export const chat = (messages) => ({ tag: 'chat', val: messages });
/** Returns a conversation of one user message. */
export const user = (content) => chat([{ speaker: 'user', content }]);

/** Returns a task as one user message: the instruction and, where there is one, a blank line and the input. */
export function task(instruction, input = '') {
  return user([instruction.trim(), input.trim()].filter((part, i) => i === 0 || part).join('\n\n'));
}

/** Returns the words a person would recognise a prompt by: the raw text, or what the user says last. */
export function gist(text) {
  if (text.tag === 'raw') return text.val;
  return text.val.findLast((it) => it.speaker === 'user')?.content ?? '';
}

/**
 * Returns a prompt as a person would write it down: raw text and a single message as they are; of a
 * conversation a paragraph for each message, with who says it in front.
 */
export function transcript(text) {
  if (text.tag === 'raw') return text.val;
  if (text.val.length === 1) return text.val[0].content;
  const names = { system: 'System', user: 'User', assistant: 'Assistant' };
  return text.val.map((it) => `${names[it.speaker]}: ${it.content.trim()}`).join('\n\n');
}

/**
 * Returns `[instruction, input]` of a task, each without white space around it. They part at the first blank
 * line; where there is none, the input is empty.
 */
export function instructionAndInput(text) {
  const lines = gist(text).trim().split('\n');
  const blank = lines.findIndex((line) => !line.trim());
  const end = blank < 0 ? lines.length : blank;
  return [lines.slice(0, end).join('\n').trim(), lines.slice(end).join('\n').trim()];
}

/**
 * Returns a prompt under instructions, which go into the system message, after what the prompt's own one
 * says. Throws `InputError` for raw text, which has no system message.
 */
export function under(instructions, text) {
  if (text.tag === 'raw') throw new InputError('the prompt is raw text, which has no system message');
  const [first, ...rest] = text.val;
  if (first?.speaker !== 'system') return chat([{ speaker: 'system', content: instructions }, ...text.val]);
  const content = `${first.content.trim()}\n\n${instructions}`.trimStart();
  return chat([{ speaker: 'system', content }, ...rest]);
}

/** A verdict: keeps the record. */
export const keep = Object.freeze({ tag: 'keep' });

/**
 * A verdict: takes the record out of the round. The reason groups in reports: a short fixed word such as
 * `repetition`, with no numbers in it.
 */
export const drop = (reason) => ({ tag: 'drop', val: reason });

/**
 * A verdict: keeps the record with completions replaced, each `{ variant, text, finish }`; `finish` is `stop`
 * where absent: the new text is whole.
 */
export const revise = (revisions) => ({ tag: 'revise', val: revisions });

/** An opinion: numbers for the completions, each `{ variant, name, value }`. */
export const rewards = (list) => ({ tag: 'rewards', val: list });
/** An opinion: one completion is better than another; by the names of their variants. */
export const preference = (chosen, rejected) => ({ tag: 'preference', val: { chosen, rejected } });
/** An opinion: neither is better. */
export const tie = Object.freeze({ tag: 'tie' });
/** An opinion: the model's words gave none; says what could not be read. */
export const unparsable = (text) => ({ tag: 'unparsable', val: text });
