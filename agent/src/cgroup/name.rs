//! Cgroup names that are no UTF-8: any byte but a slash, a newline and zero may stand in one.
//!
//! Paths are text everywhere, so such a byte becomes a character of a private range, which can be turned back
//! where a file is opened. A character of that range in a name is written byte by byte like those, so that
//! no two names are one text.

use std::borrow::Cow;

/// Would stand for the byte 0; the ones from 128 on stand for theirs. The last characters that there are, for private use.
const FIRST: u32 = 0x10_ff00;

/// A byte of ASCII is text by itself, so none is ever written so; were one read so, a slash or two dots could
/// come out of a name that has none.
fn byte_of(character: char) -> Option<u8> {
    let byte = u8::try_from(u32::from(character).checked_sub(FIRST)?).ok()?;
    (!byte.is_ascii()).then_some(byte)
}

fn character_of(byte: u8) -> char {
    char::from_u32(FIRST + u32::from(byte)).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// A path or a file with paths as text.
#[must_use]
pub fn text_of(bytes: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = str::from_utf8(bytes)
        && !text.chars().any(|one| byte_of(one).is_some())
    {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(bytes.len() + 16);
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            if byte_of(character).is_some() {
                let mut buffer = [0; 4];
                let parts = character.encode_utf8(&mut buffer).bytes();
                out.extend(parts.map(character_of));
            } else {
                out.push(character);
            }
        }
        out.extend(chunk.invalid().iter().map(|&byte| character_of(byte)));
    }
    Cow::Owned(out)
}

/// The bytes of such a text.
pub(super) fn bytes_of(text: &str) -> Cow<'_, [u8]> {
    if !text.chars().any(|one| byte_of(one).is_some()) {
        return Cow::Borrowed(text.as_bytes());
    }
    let mut out = Vec::with_capacity(text.len());
    for character in text.chars() {
        match byte_of(character) {
            Some(byte) => out.push(byte),
            None => out.extend(character.encode_utf8(&mut [0; 4]).bytes()),
        }
    }
    Cow::Owned(out)
}

/// The same for people: `\xNN` for each such byte, as systemd writes them.
pub(super) fn readable(text: String) -> String {
    if !text.chars().any(|one| byte_of(one).is_some()) {
        return text;
    }
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match byte_of(character) {
            Some(byte) => out.push_str(&format!("\\x{byte:02x}")),
            None => out.push(character),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn any_bytes_come_back_and_no_two_names_are_one_text() {
        let all: &[&[u8]] = &[
            b"/docker/web",
            "/häß/\u{10fffe}".as_bytes(),
            b"/bad\xffname",
            b"/bad\xfename",
            b"\xf4\x8f\xbf\xbe\xff",
            b"\xff\xff/\xc3",
            "/\u{10ff00}\u{10ffff}".as_bytes(),
            b"",
        ];
        let mut texts = BTreeSet::new();
        for bytes in all {
            let text = text_of(bytes);
            assert_eq!(&*bytes_of(&text), *bytes, "{text:?}");
            assert!(texts.insert(text));
        }
        assert!(matches!(text_of(b"/plain"), Cow::Borrowed("/plain")));
    }

    #[test]
    fn no_separator_comes_out_of_a_name_that_has_none() {
        let dots = "/\u{10ff2e}\u{10ff2e}\u{10ff2f}etc";
        assert_eq!(&*bytes_of(dots), dots.as_bytes());
        assert_eq!(text_of(dots.as_bytes()), dots);
    }

    #[test]
    fn people_read_the_bytes() {
        let told = |bytes| readable(text_of(bytes).into_owned());
        assert_eq!(told(b"/bad\xffname"), "/bad\\xffname");
        assert_eq!(told("/gut\u{e9}".as_bytes()), "/gut\u{e9}");
    }
}
