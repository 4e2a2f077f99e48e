import assert from 'node:assert/strict';
import { test } from 'node:test';

import * as testing from './aligner-sdk/testing.js';
import { MyPlugin } from './plugin.js';

const pool = (n, selected) =>
  Array.from({ length: n }, (_, i) => ({ id: `p-${i}`, tags: [], difficulty: null, selected: selected(i) }));

test('what was selected least comes first', () => {
  const select = () =>
    testing.plugin(MyPlugin, { prompts: 10 }).select(testing.context(), pool(20, (i) => i % 2), 5);
  const chosen = select();
  const expected = Array.from({ length: 10 }, (_, i) => `p-${2 * i}`);
  assert.deepEqual(new Set(chosen), new Set(expected));
  assert.notDeepEqual(chosen, expected);
  assert.deepEqual(chosen, select());
});

test('zero stands for all', () => {
  const chosen = testing.plugin(MyPlugin).select(testing.context(), pool(3, () => 0), 5);
  assert.deepEqual(chosen.toSorted(), ['p-0', 'p-1', 'p-2']);
});

test('each prompt draws its own examples', () => {
  const plugin = testing.plugin(MyPlugin, { examples: 2 });
  const catalogue = Array.from({ length: 9 }, (_, i) => ({ id: `ex-${i}`, tags: [] }));
  const drawn = Array.from(
    { length: 9 },
    (_, seed) => plugin.equip(testing.context(), { id: 'p-1', tags: [], seed }, catalogue).exemplars,
  );
  assert.ok(drawn.every((it) => new Set(it).size === 2));
  assert.ok(new Set(drawn.map(String)).size > 1);
});
