/** The module that a component is made of: it exports the plugin of `plugin.js`, which lies beside this folder. */
import { write } from 'aligner:plugin/log@0.1.1';

import { print } from './shut.js';

import * as authored from '../plugin.js';
import { interfaces } from './interfaces.js';
import { sendTo } from './log.js';

sendTo(write);
// Those that the world has become the component's.
export const { meta, filter, setFilter, judge, difficulty, principle, sampler, promptWriter } =
  interfaces(authored);
print();
