"""Every error Pantheon raises, in one tree.

::

    PantheonError
    ├── ConfigError            a YAML file or an argument says what cannot be
    │   └── UnsupportedScheme  an address whose scheme is unknown or not built yet
    ├── DatasetError           a dataset without ids, of another length, random where it must not be
    │   └── IdOutOfRange       a sample id outside the dataset or the dump
    ├── SchemaError            a field, dtype or shape that does not fit its specification
    │   ├── CodecError         a value the codec cannot carry
    │   │   └── UndeclaredTemperature
    │   └── MergeError         fields of several teachers that cannot be merged as asked
    ├── MismatchError          two sides do not mean the same thing; never retried
    │   ├── VersionMismatch    protocol versions without overlap
    │   ├── SchemaMismatch     schema asked for and schema served, or of two replicas
    │   ├── DatasetMismatch    dataset fingerprints or id ranges
    │   ├── RevisionMismatch   teacher weights, preprocessing or dtype
    │   └── ResumeMismatch     a saved state that does not fit this run
    ├── TransportError         the way between two processes
    │   ├── UnknownHost        a name that does not resolve
    │   ├── TeacherUnavailable nobody answers within the patience given
    │   ├── SecurityError      keys or certificates that the other side does not accept
    │   ├── ProtocolError      bytes that are not our protocol, or break its bounds
    │   └── IntegrityError     a payload whose checksum is wrong
    ├── TeacherError           the teacher could not answer
    │   ├── ModelError         the model raised or returned what its schema does not say
    │   │   └── NotFiniteError NaN or infinity in what the model returned
    │   ├── PoisonError        a request that failed again and again; names its ids
    │   ├── ReplicaDisagreement two replicas answered the same samples differently
    │   └── RefusedError       the teacher refused a request; says why
    ├── CompressionError       a stage could not do, or did not do, what it should
    └── StoreError             knowledge on disk
        ├── ManifestError      a manifest that is absent, not JSON or inconsistent
        ├── ShardError         a shard that is cut short, altered, missing or unknown
        ├── ArtifactError      a compressed model that is absent, altered or cannot be rebuilt
        └── DiskFullError      no space left while writing

An error names what is wrong, what was expected, what was found and what to do.
"""

from __future__ import annotations


class PantheonError(Exception):
    """The root of all errors raised on purpose by this project.

    >>> issubclass(SchemaMismatch, PantheonError)
    True
    """


class ConfigError(PantheonError, ValueError):
    """A configuration or an argument says what cannot be."""


class UnsupportedScheme(ConfigError):
    """An address has a scheme that is unknown, or not built yet."""


class DatasetError(PantheonError, ValueError):
    """A dataset that cannot be used: no ids, random reads, wrong length."""


class IdOutOfRange(DatasetError, IndexError):
    """A sample id lies outside the dataset or the dump."""


class SchemaError(PantheonError, ValueError):
    """A field, dtype or shape does not fit its specification."""


class CodecError(SchemaError):
    """A value that the codec of its field cannot carry."""


class UndeclaredTemperature(CodecError):
    """A temperature for which a top-k field carries no tail mass."""


class MergeError(SchemaError):
    """The fields of several teachers cannot be merged as asked."""


class MismatchError(PantheonError):
    """Two sides do not mean the same thing by a name; retrying cannot help."""


class VersionMismatch(MismatchError):
    """The protocol versions of the two sides do not overlap."""


class SchemaMismatch(MismatchError):
    """Two schemas that must be equal are not; the first differing field is named."""


class DatasetMismatch(MismatchError):
    """Two dataset fingerprints or id ranges that must be equal are not."""


class RevisionMismatch(MismatchError):
    """Knowledge of two revisions of a teacher would have been mixed."""


class ResumeMismatch(MismatchError):
    """A saved loader state does not fit the run that wants to continue it."""


class TransportError(PantheonError):
    """Something went wrong on the way between two processes."""


class UnknownHost(TransportError):
    """A host name that does not resolve."""


class TeacherUnavailable(TransportError):
    """Nobody answered at an address within the patience given."""


class SecurityError(TransportError):
    """The other side does not accept our keys or certificate, or we do not accept its own."""


class ProtocolError(TransportError):
    """Bytes arrived that are not our protocol, or that break its bounds."""


class IntegrityError(TransportError):
    """A payload arrived whose checksum is wrong."""


class TeacherError(PantheonError):
    """The teacher could not answer."""


class ModelError(TeacherError):
    """The model raised, or returned what its schema does not say."""


class NotFiniteError(ModelError):
    """The model returned NaN or infinity."""


class PoisonError(TeacherError):
    """A request failed again and again; its sample ids are named."""


class ReplicaDisagreement(TeacherError):
    """Two replicas of a teacher answered the same samples with different knowledge."""


class RefusedError(TeacherError):
    """The teacher refused a request and said why."""


class DivergedError(ConfigError):
    """A training came to losses or metrics that are not finite."""


class CompressionError(PantheonError):
    """A stage of compression could not do, or did not do, what it should."""


class StoreError(PantheonError):
    """Knowledge on disk cannot be read or written."""


class ManifestError(StoreError):
    """A manifest is absent, not JSON, or contradicts itself."""


class ShardError(StoreError):
    """A shard is cut short, altered, missing or unknown."""


class ArtifactError(StoreError):
    """A compressed model on disk is absent or altered, or does not fit its factory and edits."""


class DiskFullError(StoreError):
    """No space was left while a shard was written; nothing half-written is taken for whole."""
