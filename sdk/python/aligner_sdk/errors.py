"""Why a plugin could not do its work.

An error ends the run, or drops the record at fault where the plugin set says `on_error = "drop"`.
A record that is merely bad is no error: a filter drops it.
"""


class PluginError(Exception):
    """What the errors below have in common."""


class ConfigError(PluginError):
    """The configuration is wrong; names the key and what it must be."""


class InputError(PluginError):
    """The record is not something this plugin can work on; says what is missing. The SDK puts the
    record's id in front."""


class InternalError(PluginError):
    """A fault of the plugin itself. Any other exception counts as one, with the line it came from."""


class UnansweredError(PluginError):
    """The host could not carry out a request, for example because the prompt is longer than the
    model's context; says why. Catch it to go on without the answer."""
