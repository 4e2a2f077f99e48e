/**
 * The plugin's voice: lines that reach the host's log under the plugin's name. The host takes a number of
 * bytes in each call. In tests the lines go to stderr.
 */
let write = (level, message) => globalThis.console?.error(`${level}: ${message}`);

/** Says where lines go; a component puts the host's log here. */
export function sendTo(writer) {
  write = writer;
}

/** Writes a line that only somebody who debugs the plugin wants to see. */
export const debug = (message) => write('debug', String(message).toWellFormed());
/** Writes a line for the run's log. */
export const info = (message) => write('info', String(message).toWellFormed());
/** Writes a line that the user should see. */
export const warn = (message) => write('warn', String(message).toWellFormed());
/** Writes what went wrong. Throw an error to stop the work. */
export const error = (message) => write('error', String(message).toWellFormed());
