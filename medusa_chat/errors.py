"""Everything that may go wrong in a way the user can act on.

MedusaError                 one sentence, shown as it is; exit status 1
├── UsageError              a wrong option or value; exit status 2
├── ModelNotFound           no such name in the registry, no such folder or file
├── CheckpointError         a checkpoint is missing, damaged or could not be fetched
│   └── HeadsMismatch       heads that don't belong to this base model
├── UnsupportedModel        an architecture or device that can't do what is asked
├── OutOfMemory             what was asked for doesn't fit; says what would
├── PromptTooLong           one message alone exceeds the context
├── HistoryError            the conversation database can't be read or written
│   ├── ConversationNotFound    there is none of this number, or not any more
│   └── DatabaseDamaged     it has been kept aside, and the next use begins a fresh one
└── EngineCrashed           the engine's process ended without being asked to
"""

from __future__ import annotations


class MedusaError(Exception):
    """Base of all errors whose text is meant for the user."""


class UsageError(MedusaError):
    """A wrong option or value."""


class ModelNotFound(MedusaError):
    """No such model in the registry and no such folder."""


class CheckpointError(MedusaError):
    """A checkpoint is missing, damaged or could not be fetched."""


class HeadsMismatch(CheckpointError):
    """Medusa heads that don't belong to this base model."""


class UnsupportedModel(MedusaError):
    """An architecture, quantisation or device that can't do what is asked."""


class OutOfMemory(MedusaError):
    """What was asked for doesn't fit."""


class PromptTooLong(MedusaError):
    """One message alone exceeds the context."""


class HistoryError(MedusaError):
    """The conversation database can't be read or written."""


class ConversationNotFound(HistoryError):
    """There is no conversation of this number, or not any more."""


class DatabaseDamaged(HistoryError):
    """The conversation database has been kept aside, and the next use begins a fresh one."""


class EngineCrashed(MedusaError):
    """The engine's process ended without being asked to."""
