import { Plugin, completions, log, rewards } from './aligner-sdk/index.js';

/** Rewards completions that the model finds likely after words of its own. For tests. */
export class Likely extends Plugin {
  static about = { name: 'likely', version: '0.1.0', summary: 'Rewards likely completions. For tests.' };
  static config = { model: { type: 'string', default: 'policy' } };

  /** @type {import('./aligner-sdk/index.js').Judge['judge']} */
  judge(context, record, ask) {
    const { model } = this.config;
    // One request, then several that depend on its answer.
    const first = ask.generate(model, record.prompt.text, { temperature: 0.7, maxNewTokens: 3 }, 7);
    const completed = completions(record);
    const scores = ask.all(
      completed.map(([{ prompt }, { text }]) => ({
        tag: 'score',
        val: { model, prompt, completion: `${first.text}${text}` },
      })),
    );
    const value = ({ val: { logprob, tokens } }) => logprob / tokens;
    log.info(`${record.prompt.id}: ${scores.length}`);
    return rewards(completed.map(([{ name }], i) => ({ variant: name, name: 'likely', value: value(scores[i]) })));
  }
}
