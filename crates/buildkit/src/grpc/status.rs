//! How a call ended.

use std::fmt;
use std::fmt::Write as _;

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue};

use crate::message::status::{Any, Status as Wire};
use crate::wire::{DecodeError, Message};

/// gRPC's codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are gRPC's")]
pub enum Code {
    Ok = 0,
    Cancelled = 1,
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Aborted = 10,
    OutOfRange = 11,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    DataLoss = 15,
    Unauthenticated = 16,
}

impl From<i32> for Code {
    fn from(number: i32) -> Self {
        match number {
            0 => Self::Ok,
            1 => Self::Cancelled,
            3 => Self::InvalidArgument,
            4 => Self::DeadlineExceeded,
            5 => Self::NotFound,
            6 => Self::AlreadyExists,
            7 => Self::PermissionDenied,
            8 => Self::ResourceExhausted,
            9 => Self::FailedPrecondition,
            10 => Self::Aborted,
            11 => Self::OutOfRange,
            12 => Self::Unimplemented,
            13 => Self::Internal,
            14 => Self::Unavailable,
            15 => Self::DataLoss,
            16 => Self::Unauthenticated,
            _ => Self::Unknown,
        }
    }
}

/// A call that failed.
#[derive(Debug, Clone, PartialEq)]
pub struct Status {
    /// Of which class.
    pub code: Code,
    /// For people.
    pub message: String,
    /// For programs; see [`crate::errdefs`].
    pub details: Vec<Any>,
}

impl fmt::Display for Status {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.message.is_empty() {
            true => write!(formatter, "{:?}", self.code),
            false => formatter.write_str(&self.message),
        }
    }
}

impl std::error::Error for Status {}

/// The longest text of an error: it travels in a header, and peers bound these.
const MAX_MESSAGE: usize = 16 << 10;

/// The largest details.
const MAX_DETAILS: usize = 64 << 10;

/// With padding or without: both are in use.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

impl Status {
    /// A failure.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: Vec::new() }
    }

    /// A call that is not offered.
    pub fn unimplemented(method: &str) -> Self {
        // grpc-go's text for it.
        let (service, name) = method.trim_start_matches('/').split_once('/').unwrap_or((method, ""));
        Self::new(Code::Unimplemented, format!("unknown method {name} for service {service}"))
    }

    /// The same failure with something said before its text.
    #[must_use]
    pub fn context(mut self, what: &str) -> Self {
        self.message = format!("{what}: {self}");
        self
    }

    /// As a message.
    pub fn to_wire(&self) -> Wire {
        Wire { code: self.code as i32, message: self.message.clone(), details: self.details.clone() }
    }

    /// From a message.
    pub fn from_wire(wire: Wire) -> Self {
        Self { code: wire.code.into(), message: wire.message, details: wire.details }
    }

    /// The trailers that end a call.
    pub(super) fn trailers(outcome: &Result<(), Self>) -> HeaderMap {
        let mut trailers = HeaderMap::new();
        let code = outcome.as_ref().err().map_or(Code::Ok, |status| status.code);
        trailers.insert("grpc-status", HeaderValue::from(code as i32));
        let Err(status) = outcome else { return trailers };
        let mut escaped = String::with_capacity(status.message.len());
        for byte in status.message.bytes() {
            if escaped.len() >= MAX_MESSAGE {
                escaped.push_str("...");
                break;
            }
            match byte {
                b' '..=b'~' if byte != b'%' => escaped.push(char::from(byte)),
                _ => {
                    let _ = write!(escaped, "%{byte:02X}");
                }
            }
        }
        if let Ok(message) = HeaderValue::from_str(&escaped) {
            trailers.insert("grpc-message", message);
        }
        if !status.details.is_empty() {
            let bytes = status.to_wire().encode();
            if bytes.len() <= MAX_DETAILS
                && let Ok(value) = HeaderValue::from_str(&BASE64.encode(bytes))
            {
                trailers.insert("grpc-status-details-bin", value);
            }
        }
        trailers
    }

    /// Reads trailers. None: they have no status.
    pub(super) fn from_trailers(trailers: &HeaderMap) -> Option<Result<(), Self>> {
        let code = super::text(trailers, "grpc-status")?;
        let code = Code::from(code.parse::<i32>().unwrap_or(Code::Unknown as i32));
        if code == Code::Ok {
            return Some(Ok(()));
        }
        let message = super::text(trailers, "grpc-message").map(super::percent_decode).unwrap_or_default();
        let details = super::text(trailers, "grpc-status-details-bin")
            .and_then(|text| BASE64.decode(text).ok())
            .and_then(|bytes| Wire::decode(Bytes::from(bytes)).ok());
        Some(Err(Self { code, message, details: details.map(|wire| wire.details).unwrap_or_default() }))
    }
}

impl From<DecodeError> for Status {
    fn from(error: DecodeError) -> Self {
        Self::new(Code::Internal, error.to_string())
    }
}

impl From<h2::Error> for Status {
    fn from(error: h2::Error) -> Self {
        match error.reason() {
            Some(h2::Reason::CANCEL) => Self::new(Code::Cancelled, "the call was cancelled"),
            Some(h2::Reason::REFUSED_STREAM) => Self::new(Code::Unavailable, "the call was refused"),
            _ => Self::new(Code::Unavailable, format!("the connection failed: {error}")),
        }
    }
}
