import { parse } from './config.js';

/**
 * What every plugin extends. `static about` says who it is; `static config`, what may stand under `config`
 * in the plugin set: the `properties` of a JSON Schema, where a key without a `default` must be given. What
 * was given is in `this.config`; a constructor that checks more of it throws `ConfigError`.
 *
 * The methods say what kind a plugin is: `filter`; `observe` and `decide`; `judge`; `score`; `render`, with
 * `catalogue`; `select`, with `equip` and `write`. The host makes a plugin anew for every batch, so nothing
 * is left of what a call keeps in `this`.
 */
export class Plugin {
  static about = { name: '', version: '', summary: '', needs: [] };
  static config = {};

  constructor(config) {
    this.config = config;
  }
}

/** Makes a plugin from the text of its configuration. */
export function configured(kind, text) {
  return new kind(parse(kind.config ?? {}, text));
}
