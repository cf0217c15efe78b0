//! Bodies of requests that are compressed.

use std::io::Read;

use actix_web::http::header::{self, HeaderMap};
use flate2::bufread::{MultiGzDecoder, ZlibDecoder};

use crate::status::Failure;

/// How a body is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Coding {
    Gzip,
    /// The format of zlib, as HTTP means it by this name.
    Deflate,
}

impl Coding {
    /// What `Content-Encoding` says; `None` for a body that is as it is.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Option<Self>, Failure> {
        let mut codings = headers.get_all(header::CONTENT_ENCODING);
        let Some(coding) = codings.next() else { return Ok(None) };
        let is = |name: &str| coding.as_bytes().trim_ascii().eq_ignore_ascii_case(name.as_bytes());
        if codings.next().is_none() {
            if is("") || is("identity") {
                return Ok(None);
            }
            if is("gzip") || is("x-gzip") {
                return Ok(Some(Self::Gzip));
            }
            if is("deflate") {
                return Ok(Some(Self::Deflate));
            }
        }
        let text = "the body's `Content-Encoding` must be gzip, deflate or identity";
        Err(Failure::new(415, text))
    }

    /// The body itself, of at most `limit` bytes; `None` where there are more.
    pub(crate) fn unpack(self, packed: &[u8], limit: usize) -> Result<Option<Vec<u8>>, Failure> {
        let mut body = Vec::with_capacity(packed.len().saturating_mul(4).min(limit));
        let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
        let read = match self {
            // A file may be several that were put together.
            Self::Gzip => MultiGzDecoder::new(packed).take(most).read_to_end(&mut body),
            Self::Deflate => {
                let mut decoder = ZlibDecoder::new(packed);
                let read = decoder.by_ref().take(most).read_to_end(&mut body);
                let is_whole = body.len() > limit || decoder.into_inner().is_empty();
                read.ok()
                    .filter(|_| is_whole)
                    .ok_or_else(|| std::io::ErrorKind::InvalidData.into())
            }
        };
        if read.is_err() {
            let name = match self {
                Self::Gzip => "gzip",
                Self::Deflate => "deflate",
            };
            return Err(Failure::new(
                400,
                format!(
                    "the body's `Content-Encoding` is {name}, but the body is damaged, cut off or not {name} at all"
                ),
            ));
        }
        Ok((body.len() <= limit).then_some(body))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::http::header::HeaderValue;
    use flate2::Compression;
    use flate2::write::{GzEncoder, ZlibEncoder};
    use proptest::prelude::*;
    use std::io::Write;

    fn of(values: &[&'static str]) -> Result<Option<Coding>, u16> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::CONTENT_ENCODING, HeaderValue::from_static(value));
        }
        Coding::of(&headers).map_err(|failure| failure.status)
    }

    fn packed(coding: Coding, body: &[u8]) -> Vec<u8> {
        match coding {
            Coding::Gzip => {
                let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
                encoder.write_all(body).unwrap();
                encoder.finish().unwrap()
            }
            Coding::Deflate => {
                let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
                encoder.write_all(body).unwrap();
                encoder.finish().unwrap()
            }
        }
    }

    #[test]
    fn codings_are_known_in_any_case() {
        for name in ["gzip", "GZIP", "x-gzip", "X-GZip", " gzip "] {
            assert_eq!(of(&[name]), Ok(Some(Coding::Gzip)), "{name}");
        }
        for name in ["deflate", "Deflate"] {
            assert_eq!(of(&[name]), Ok(Some(Coding::Deflate)), "{name}");
        }
        for name in ["", "identity", "Identity"] {
            assert_eq!(of(&[name]), Ok(None), "{name}");
        }
        assert_eq!(of(&[]), Ok(None));
        for names in [&["br"][..], &["gzip, gzip"], &["gzip", "gzip"], &["identity", "br"]] {
            assert_eq!(of(names), Err(415), "{names:?}");
        }
    }

    #[test]
    fn a_body_of_two_gzip_members_is_both() {
        let mut both = packed(Coding::Gzip, b"{\"in");
        both.extend(packed(Coding::Gzip, b"puts\": []}"));
        assert_eq!(Coding::Gzip.unpack(&both, 64), Ok(Some(b"{\"inputs\": []}".to_vec())));
    }

    #[test]
    fn what_is_damaged_is_told_of_by_its_coding() {
        for (coding, name) in [(Coding::Gzip, "gzip"), (Coding::Deflate, "deflate")] {
            let whole = packed(coding, b"a body of some length, a body of some length");
            let mut flipped = whole.clone();
            let last = flipped.len() - 1;
            flipped[last] ^= 1;
            let longer = [whole.as_slice(), b"more"].concat();
            for body in [b"", b"{}".as_slice(), &whole[..whole.len() - 3], &flipped, &longer] {
                let failure = coding.unpack(body, 1000).unwrap_err();
                let text = format!(
                    "the body's `Content-Encoding` is {name}, but the body is damaged, cut off or not {name} at all"
                );
                assert_eq!((failure.status, failure.message), (400, text));
            }
        }
    }

    #[test]
    fn more_than_the_limit_is_not_unpacked() {
        for coding in [Coding::Gzip, Coding::Deflate] {
            let bomb = packed(coding, &vec![b' '; 1 << 20]);
            assert_eq!(coding.unpack(&bomb, (1 << 20) - 1), Ok(None));
            assert_eq!(coding.unpack(&bomb, 1000), Ok(None));
            assert!(coding.unpack(&bomb, 1 << 20).unwrap().is_some());
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_unpacked_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            for coding in [Coding::Gzip, Coding::Deflate] {
                let _ = coding.unpack(&bytes, 100);
                prop_assert_eq!(coding.unpack(&packed(coding, &bytes), 200), Ok(Some(bytes.clone())));
            }
        }
    }
}
