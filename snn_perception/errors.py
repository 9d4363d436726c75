"""The errors a user can meet. Each message says where, what was expected, what came, and the next thing to try."""


class SnnPerceptionError(Exception):
    """Base of every error that is the user's to mend; commands print it as one line and exit with 1."""


class PluginError(SnnPerceptionError):
    """A plugin is missing, broken, clashes with another, or was given a wrong option."""


class SpecError(SnnPerceptionError):
    """A model description (ModelSpec) is incomplete, inconsistent or of an unknown version."""


class CheckpointError(SnnPerceptionError):
    """A weights file is missing, corrupt, foreign, or does not fit its model."""


class EventDataError(SnnPerceptionError):
    """A recording, packet or label file cannot be read as what it claims to be."""


class ExportError(SnnPerceptionError):
    """A model cannot be written in the wanted form, or the written form differs from the model."""
