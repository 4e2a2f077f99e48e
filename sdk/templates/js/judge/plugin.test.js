import assert from 'node:assert/strict';
import { test } from 'node:test';

import { completions, rewards } from './aligner-sdk/index.js';
import * as testing from './aligner-sdk/testing.js';
import { MyPlugin } from './plugin.js';

const says = (text) => () => ({ tag: 'completion', val: testing.completion(text) });
const judged = (model) =>
  testing.judge(testing.plugin(MyPlugin), testing.answered('p-1', 'Why?', 'Because.'), model);

test('a grade becomes a reward', () => {
  const check = (said, value) => {
    assert.deepEqual(judged(says(said)), rewards([{ variant: 'few-shot', name: 'quality', value }]));
  };
  check('7', 7);
  check('The grade is 10.', 10);
});

test('what is no grade is unparsable', () => {
  const unanswered = () => ({ tag: 'unanswered', val: 'too long' });
  for (const model of [says('Good!'), says('100'), unanswered]) {
    assert.equal(judged(model).tag, 'unparsable');
  }
});

test('awkward records get an opinion', () => {
  const plugin = testing.plugin(MyPlugin);
  for (const record of testing.awkward()) {
    if (completions(record).length) {
      assert.equal(testing.judge(plugin, record, says('5')).tag, 'rewards');
    } else {
      assert.throws(() => testing.judge(plugin, record), { name: 'InputError' });
    }
  }
});
