import { Plugin, Rng } from './aligner-sdk/index.js';

/** Draws the prompts of a round from those selected least often. */
export class MyPlugin extends Plugin {
  static about = {
    name: 'my-plugin',
    version: '0.1.0',
    summary: 'Draws the prompts of a round from those selected least often.',
  };
  static config = {
    prompts: { type: 'integer', minimum: 0, default: 0, description: 'How many a round has; 0: all.' },
    examples: { type: 'integer', minimum: 0, default: 0, description: 'How many each prompt gets.' },
  };

  /** @type {import('./aligner-sdk/index.js').Sampler['select']} */
  select(context, pool, seed) {
    const drawn = [...pool];
    new Rng(seed).shuffle(drawn);
    drawn.sort((a, b) => a.selected - b.selected);
    return drawn.slice(0, this.config.prompts || drawn.length).map(({ id }) => id);
  }

  /** @type {Required<import('./aligner-sdk/index.js').Sampler>['equip']} */
  equip(context, slot, catalogue) {
    const drawn = new Rng(slot.seed).choose(this.config.examples, catalogue.length);
    return { exemplars: drawn.map((i) => catalogue[i].id) };
  }
}
