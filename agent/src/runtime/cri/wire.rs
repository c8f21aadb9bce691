//! The wire format of protocol buffers, read in place.
//!
//! A message is walked field by field and nothing is allocated for it, so that an answer of 16 MiB takes
//! 16 MiB: a decoder that builds lists of structs makes a hundred times that of 16 MiB of empty elements.
//! And one container's broken text does not take the names of all others away.
//! <https://protobuf.dev/programming-guides/encoding/>

/// It is no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("byte {0} is not of a protocol buffers message")]
pub(super) struct Malformed(usize);

/// What a field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value<'a> {
    /// A number, a boolean or an enum's value.
    Number(u64),
    /// A text, a message or bytes.
    Bytes(&'a [u8]),
    /// Four or eight bytes, which no message has that is read here.
    Fixed,
}

impl<'a> Value<'a> {
    /// Bytes, or none where it is something else: a field of another type counts as absent.
    pub(super) fn bytes(self) -> &'a [u8] {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Number(_) | Self::Fixed => &[],
        }
    }

    /// A signed number, which the format writes as its two's complement.
    pub(super) fn number(self) -> i64 {
        match self {
            Self::Number(number) => number.cast_signed(),
            Self::Bytes(_) | Self::Fixed => 0,
        }
    }

    /// At most so many bytes of a text. What is not UTF-8 becomes the replacement character.
    pub(super) fn text(self, most: usize) -> String {
        // The rest of a character that is cut would become a replacement character, too.
        let bytes = self.bytes();
        let mut end = bytes.len().min(most);
        while end > 0 && bytes.get(end).is_some_and(|byte| byte & 0xc0 == 0x80) {
            end -= 1;
        }
        String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned()
    }
}

/// The fields of a message in their order: number and value. Ends after the first that is broken.
#[derive(Clone, Debug)]
pub(super) struct Fields<'a> {
    message: &'a [u8],
    at: usize,
}

/// The fields of a message.
pub(super) fn fields(message: &[u8]) -> Fields<'_> {
    Fields { message, at: 0 }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Value<'a>), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.message.len() {
            return None;
        }
        let start = self.at;
        let field = self.field();
        if field.is_none() {
            self.at = self.message.len();
        }
        Some(field.ok_or(Malformed(start)))
    }
}

impl<'a> Fields<'a> {
    fn field(&mut self) -> Option<(u32, Value<'a>)> {
        let key = self.varint()?;
        let number = u32::try_from(key >> 3).ok().filter(|&number| number > 0)?;
        let value = match key & 7 {
            0 => Value::Number(self.varint()?),
            1 => self.take(8).map(|_| Value::Fixed)?,
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                Value::Bytes(self.take(length)?)
            }
            5 => self.take(4).map(|_| Value::Fixed)?,
            // Groups went out of use before any of these messages was written.
            _ => return None,
        };
        Some((number, value))
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let taken = self.message.get(self.at..self.at.checked_add(count)?)?;
        self.at += count;
        Some(taken)
    }

    /// At most ten bytes of seven bits, the lowest first.
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = *self.take(1)?.first()?;
            let bits = u64::from(byte & 0x7f);
            if (bits << shift) >> shift != bits {
                return None;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use prost::Message;

    use super::*;
    use crate::hostile::cases;

    /// As a runtime writes it.
    #[derive(Clone, PartialEq, Message)]
    struct Written {
        #[prost(string, tag = "1")]
        text: String,
        #[prost(int64, tag = "2")]
        signed: i64,
        #[prost(fixed64, tag = "3")]
        fixed: u64,
        #[prost(btree_map = "string, string", tag = "4")]
        map: BTreeMap<String, String>,
        #[prost(float, tag = "5")]
        float: f32,
        #[prost(uint64, tag = "536870911")]
        far: u64,
    }

    proptest! {
        #![proptest_config(cases(256))]

        #[test]
        fn any_bytes_end_soon_and_are_all_in_bounds(
            bytes in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let mut bytes_of_fields = 0;
            for (index, field) in fields(&bytes).enumerate() {
                prop_assert!(index <= bytes.len());
                if let Ok((number, value)) = field {
                    prop_assert!(number > 0);
                    bytes_of_fields += value.bytes().len();
                    prop_assert!(value.text(7).chars().count() <= 7);
                }
            }
            prop_assert!(bytes_of_fields <= bytes.len());
        }

        #[test]
        fn what_is_written_is_read(
            text in ".{0,40}",
            signed in any::<i64>(),
            fixed in any::<u64>(),
            map in prop::collection::btree_map(".{0,9}", ".{0,9}", 0..4),
            far in any::<u64>(),
        ) {
            let written = Written { text, signed, fixed, map, float: 0.5, far };
            let mut read = Written { fixed, float: 0.5, ..Written::default() };
            for field in fields(&written.encode_to_vec()) {
                match field.unwrap() {
                    (1, value) => read.text = value.text(usize::MAX),
                    (2, value) => read.signed = value.number(),
                    (4, value) => {
                        let mut pair = [String::new(), String::new()];
                        for field in fields(value.bytes()) {
                            let (number, value) = field.unwrap();
                            pair[number as usize - 1] = value.text(usize::MAX);
                        }
                        let [key, value] = pair;
                        read.map.insert(key, value);
                    }
                    (536_870_911, Value::Number(number)) => read.far = number,
                    (number, value) => {
                        prop_assert!(number == 3 || number == 5);
                        prop_assert_eq!(value, Value::Fixed);
                    }
                }
            }
            prop_assert_eq!(read, written);
        }

        #[test]
        fn a_cut_message_is_malformed_or_lacks_its_end(text in ".{0,40}", cut in any::<prop::sample::Index>()) {
            let whole = Written { text, signed: -1, ..Written::default() }.encode_to_vec();
            let cut = cut.index(whole.len());
            let read: Vec<_> = fields(&whole[..cut]).collect();
            let all: Vec<_> = fields(&whole).collect();
            prop_assert!(read.len() <= all.len());
            for (read, all) in read.iter().zip(&all) {
                prop_assert!(read.is_err() || read == all);
            }
        }
    }

    #[test]
    fn what_is_no_message_is_malformed() {
        for bytes in [
            &[0x80_u8][..],
            // Number zero, a group, a length beyond the end, eleven bytes of a number.
            &[0x00, 0x00],
            &[0x0b],
            &[0x0a, 0x05, b'x'],
            &[
                0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01,
            ],
            &[
                0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01,
            ],
        ] {
            assert_eq!(
                fields(bytes).collect::<Vec<_>>(),
                [Err(Malformed(0))],
                "{bytes:?}"
            );
        }
    }

    #[test]
    fn text_that_is_no_text_does_no_harm_and_is_cut_at_a_character() {
        assert_eq!(Value::Bytes(b"a\xffb").text(9), "a\u{fffd}b");
        assert_eq!(Value::Bytes("aä".as_bytes()).text(2), "a");
        assert_eq!(Value::Bytes(&[0x80; 9]).text(4), "");
        assert_eq!(Value::Number(3).text(9), "");
    }
}
