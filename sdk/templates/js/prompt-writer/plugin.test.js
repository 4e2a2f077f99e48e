import assert from 'node:assert/strict';
import { test } from 'node:test';

import { gist, user } from './aligner-sdk/index.js';
import * as testing from './aligner-sdk/testing.js';
import { MyPlugin } from './plugin.js';

const pool = Array.from({ length: 9 }, (_, i) => testing.record(`p-${i}`, `Why ${i}?`).prompt);
const written = (answer) =>
  testing.write(testing.plugin(MyPlugin), pool, ({ val }) => {
    assert.equal(gist(val.prompt).split('Why ').length, 4);
    return answer;
  });
const says = (text) => ({ tag: 'completion', val: testing.completion(text) });

test('the first line is a prompt of this round', () => {
  const [{ text, tags }, ...more] = written(says('\n How so? \nOr not?'));
  assert.deepEqual([text, tags, more], [user('How so?'), ['round:1'], []]);
});

test('silence and examples that do not fit give no prompt', () => {
  assert.deepEqual(written(says(' \n')), []);
  assert.deepEqual(written({ tag: 'unanswered', val: 'too long' }), []);
});

test('a round works on what it wrote', () => {
  const candidate = (id, tags) => ({ id, tags, difficulty: null, selected: 0 });
  const chosen = testing.plugin(MyPlugin).select(testing.context(), [candidate('p-1', []), candidate('w-1', ['round:1'])]);
  assert.deepEqual(chosen, ['w-1']);
});
