import assert from 'node:assert/strict';
import { test } from 'node:test';

import * as testing from './aligner-sdk/testing.js';
import { MyPlugin } from './plugin.js';

const plugin = testing.plugin(MyPlugin);

test('an unsure answer is harder', () => {
  const scored = (logprob) => {
    const val = { text: 'Because.', tokens: 4, logprob, finish: 'stop' };
    return testing.score(plugin, testing.record('p-1', 'Why?'), () => ({ tag: 'completion', val }));
  };
  assert.deepEqual([scored(-2), scored(-8)], [0.5, 2]);
});

test('a prompt that the model cannot read is an error', () => {
  const model = () => ({ tag: 'unanswered', val: 'too long' });
  const work = () => testing.score(plugin, testing.record('p-1', 'Why?'), model);
  assert.throws(work, { name: 'UnansweredError' });
});

test('awkward records get a score', () => {
  const model = () => ({ tag: 'completion', val: testing.completion('Because.') });
  for (const record of testing.awkward()) {
    assert.ok(testing.score(plugin, record, model) >= 0);
  }
});
