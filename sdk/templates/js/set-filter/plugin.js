import { Plugin, completions, drop, keep } from './aligner-sdk/index.js';

/** Keeps the first of the records whose answers begin with the same words. */
export class MyPlugin extends Plugin {
  static about = {
    name: 'my-plugin',
    version: '0.1.0',
    summary: 'Keeps the first of the records whose answers begin with the same words.',
  };
  static config = {
    words: { type: 'integer', minimum: 1, default: 8, description: 'How many words of an answer are compared.' },
  };

  /** The first record with each beginning. One instance sees the whole stage. */
  first = new Map();

  /** @type {import('./aligner-sdk/index.js').SetFilter['observe']} */
  observe(context, record) {
    for (const beginning of this.beginnings(record)) {
      if (!this.first.has(beginning)) this.first.set(beginning, record.prompt.id);
    }
  }

  /** @type {import('./aligner-sdk/index.js').SetFilter['decide']} */
  decide(context, record) {
    const { id } = record.prompt;
    const same = this.beginnings(record).some((it) => (this.first.get(it) ?? id) !== id);
    return same ? drop('same-beginning') : keep;
  }

  beginnings(record) {
    const words = (text) => text.split(/\s+/u).filter(Boolean).slice(0, this.config.words);
    return completions(record).map(([, { text }]) => words(text).join(' ').toLowerCase());
  }
}
