import { info, warn, error, debug } from './log.js';

/**
 * Takes away what a plugin must not have. Reaching for it would end the component in a trap that says
 * nothing, or give numbers that are always the same; these say what it was.
 */
export function shut() {
  const refuse = (what) => () => {
    throw new Error(`a plugin has no ${what}`);
  };
  Math.random = refuse('random numbers but those of `ask.rng()`');
  const clock = refuse('clock');
  const Native = Date;
  globalThis.Date = new Proxy(Native, {
    apply: clock,
    construct: (target, given, proxy) => (given.length ? Reflect.construct(target, given, proxy) : clock()),
  });
  Native.now = clock;
  Native.prototype.constructor = globalThis.Date;
  Object.defineProperty(globalThis, 'performance', { value: { now: clock } });
  globalThis.console = { debug, log: info, info, warn, error };
}
