"""Errors of the service, without a word about HTTP; `service.http.problems` maps them to statuses.

D3GZSLError                         (model.errors)
├── InvalidInputError               (model.errors)
│   ├── SettingsError               the service cannot start like this
│   ├── MalformedBodyError          the body cannot be read at all
│   │   └── NotFiniteError          a number in it that no float can hold
│   └── InvalidRequestError         a field or parameter is wrong
│       ├── InvalidClassIdError
│       ├── InvalidClassNameError
│       ├── MetadataTooLargeError
│       ├── InvalidExamplesError    photos that no class can have
│       ├── InvalidBatchError       some classes of a batch are not valid by themselves
│       └── BatchConflictError      some classes of a batch do not fit the class table as it is
├── MediaTypeError                  the body has a type that is not taken here
│   └── ContentEncodingError        or is compressed in a way that is not
├── MalformedRequestError           a head that HTTP does not allow
├── SlowRequestError                a request that did not come in time
├── TooLargeError                   more bytes, images or elements than allowed
│   └── BatchTooLargeError
├── AccessError
│   ├── UnauthorizedError           no valid key
│   ├── ForbiddenError              a valid key without the role
│   ├── HostError                   a change sent to a host name that is not allowed
│   ├── OriginError                 a change sent by a page of another origin
│   └── RateError                   the client asks too often
├── RegistryError                   the registry on disk cannot be used
│   ├── StorageError                reading or writing it failed
│   │   ├── StorageFullError        the disk has no room
│   │   └── UnconfirmedChangeError  the database did not say whether it committed
│   ├── RegistryReplacedError       a backup has taken its place meanwhile
│   └── RegistryDamagedError        it is not what was written, or not where it was
├── UnknownVersionError             there was no such version of the registry
├── ClassError
│   ├── UnknownClassError
│   ├── UnknownExampleError
│   ├── LastExampleError            a class would have neither a description nor a photo
│   ├── ClassExistsError
│   ├── SeenClassError              seen classes cannot be changed
│   └── PreconditionError           If-Match or If-None-Match does not hold
├── UnavailableError
│   ├── OverloadedError             the queue is full
│   ├── DeadlineError               the answer was not ready in time
│   ├── VersionNotReachedError      nor was a version of the registry
│   └── NotReadyError               not started, stopping or broken
├── InferenceError                  the model failed on this image
│   └── NotFiniteOutputError        what it gave are no finite numbers
└── ClientError                     (service.client) what a client has not got from a service
"""

from __future__ import annotations

from model.errors import D3GZSLError, InvalidInputError


class SettingsError(InvalidInputError):
    """Settings with which the service cannot start."""


class MalformedBodyError(InvalidInputError):
    """A body that cannot be read: broken JSON or multipart, text that is no UTF-8."""


class NotFiniteError(MalformedBodyError):
    """A body with NaN, an infinity, or a number beyond the largest float."""


class InvalidRequestError(InvalidInputError):
    """A field of the body or a parameter that breaks a rule."""


class InvalidClassIdError(InvalidRequestError):
    """An id that is not a slug, and nothing else wrong."""


class InvalidClassNameError(InvalidRequestError):
    """A name that is empty, too long or not printable, and nothing else wrong."""


class MetadataTooLargeError(InvalidRequestError):
    """Metadata beyond its size, and nothing else wrong."""


class InvalidExamplesError(InvalidRequestError):
    """Example photos that cannot be read, are too many, or that the bundle does not take."""


class InvalidBatchError(InvalidRequestError):
    """A batch with classes that are not valid by themselves."""


class BatchConflictError(InvalidRequestError):
    """A batch with classes that exist, were seen in training, or come twice."""


class MediaTypeError(D3GZSLError):
    """A body of a type that is not taken here."""


class ContentEncodingError(MediaTypeError):
    """A body with a content encoding that is not taken here."""


class MalformedRequestError(D3GZSLError):
    """A request whose head contradicts itself, so that nobody can say where its body ends."""


class SlowRequestError(D3GZSLError):
    """A request that did not come in time."""


class TooLargeError(D3GZSLError):
    """A request beyond a limit."""


class BatchTooLargeError(TooLargeError):
    """A batch with more classes than allowed."""


class AccessError(D3GZSLError):
    """A request that is not allowed."""


class UnauthorizedError(AccessError):
    """No key, or none that is known."""


class ForbiddenError(AccessError):
    """A key whose role does not allow this."""


class HostError(AccessError):
    """A change under a host name that is not allowed."""


class OriginError(AccessError):
    """A change from a page of another origin."""


class RegistryError(D3GZSLError):
    """A registry that cannot be used: of another bundle, of a newer version, damaged."""


class StorageError(RegistryError):
    """The database did not read or write."""


class StorageFullError(StorageError):
    """The disk that the database writes to has no room; nothing was written."""


class UnconfirmedChangeError(StorageError):
    """The database was asked to commit and did not say that it has: the change is stored as a whole, or not at all."""


class RegistryReplacedError(RegistryError):
    """Another registry has taken the place of the one that was read; read it from the start."""


class RegistryDamagedError(RegistryError):
    """What is stored is not what was written, or its file is not the one that was opened; says what to do."""


class UnknownVersionError(D3GZSLError):
    """The registry never had this version."""


class ClassError(D3GZSLError):
    """A change or question about one class that cannot be met."""


class UnknownClassError(ClassError):
    """No class has this id."""


class UnknownExampleError(ClassError):
    """The class has no example photo with this id."""


class LastExampleError(ClassError):
    """The class has no description, so that its last example photo cannot be taken back."""


class ClassExistsError(ClassError):
    """A class has this id already."""


class SeenClassError(ClassError):
    """The class was seen in training: it cannot be removed or described again."""


class PreconditionError(ClassError):
    """The class is not in the state that the client expects."""


class UnavailableError(D3GZSLError):
    """No answer now; asking again later may help."""

    def __init__(self, message: str, *, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class RateError(AccessError):
    """A client that asks more often than it may.

    Args:
        message: the rule that was broken.
        retry_after: whole seconds after which it may ask again.
    """

    def __init__(self, message: str, *, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class OverloadedError(UnavailableError):
    """More images are waiting than allowed."""


class DeadlineError(UnavailableError):
    """The answer was not ready in time."""


class VersionNotReachedError(UnavailableError):
    """The version of the registry that was asked for did not come in time."""


class NotReadyError(UnavailableError):
    """The service is not started, is stopping, or its worker died."""


class InferenceError(D3GZSLError):
    """The model failed on this image."""


class NotFiniteOutputError(InferenceError):
    """The model gave numbers for this image that are not finite."""
