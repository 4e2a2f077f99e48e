/**
 * Takes away what a plugin must not have. Reaching for it would end the component in a trap that says
 * nothing, or give numbers that are always the same; these say what it was, and what there is instead. It is
 * imported before the plugin, so that this holds for what a module does when it is loaded, too.
 */
import { info, warn, error, debug } from './log.js';

const refuse = (what) => () => {
  throw new Error(`a plugin has no ${what}`);
};
const chance = refuse('random numbers but those of `ask.rng()` and `new Rng(seed)`');
const clock = refuse('clock; where results shall differ, draw them with `ask.rng()`');
const network = refuse('network; what needs a model is asked of `ask`');
const files = refuse('files; import what it needs, which goes into the component');

Math.random = chance;
const Native = Date;
globalThis.Date = new Proxy(Native, {
  apply: clock,
  construct: (target, given, proxy) => (given.length ? Reflect.construct(target, given, proxy) : clock()),
});
Native.now = clock;
Native.prototype.constructor = globalThis.Date;

const nothing = {
  performance: { now: clock },
  setTimeout: clock,
  setInterval: clock,
  crypto: { getRandomValues: chance, randomUUID: chance, randomBytes: chance },
  fetch: network,
  XMLHttpRequest: network,
  WebSocket: network,
  require: files,
};
for (const [name, value] of Object.entries(nothing)) Object.defineProperty(globalThis, name, { value });

/** What is printed goes to the log, once there is one. */
export function print() {
  globalThis.console = { debug, log: info, info, warn, error };
}
