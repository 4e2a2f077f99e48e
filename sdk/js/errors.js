/** What the errors below have in common. */
export class PluginError extends Error {
  get name() {
    return this.constructor.name;
  }
}

/** The configuration is wrong; names the key and what it must be. */
export class ConfigError extends PluginError {}

/**
 * The record is not something this plugin can work on; says what is missing. The SDK puts the record's id in
 * front.
 */
export class InputError extends PluginError {}

/** A fault of the plugin itself. Any other error counts as one, with the line it came from. */
export class InternalError extends PluginError {}

/**
 * The host could not carry out a request, for example because the prompt is longer than the model's context;
 * says why. Catch it to go on without the answer.
 */
export class UnansweredError extends PluginError {}
