//! Keys in lower-case or upper-case hexadecimal digits, in constant time: no branch and no index
//! depends on a secret.

use shoutd_netlink::wireguard::KEY_OCTETS;
use zeroize::Zeroizing;

/// Parses a key of exactly 64 digits.
pub(crate) fn parse(text: &str) -> Option<Zeroizing<[u8; KEY_OCTETS]>> {
    let digits = text.as_bytes();
    if digits.len() != KEY_OCTETS * 2 {
        return None;
    }
    let mut octets = Zeroizing::new([0; KEY_OCTETS]);
    let mut invalid = 0;
    for (octet, pair) in octets.iter_mut().zip(digits.chunks_exact(2)) {
        let [high, low] = [value(pair[0]), value(pair[1])];
        invalid |= (high | low) >> 8;
        *octet = (((high << 4) | (low & 0xf)) & 0xff).to_le_bytes()[0];
    }
    (invalid == 0).then_some(octets)
}

/// The value of a digit. Bits above the lowest eight are set if it is none.
fn value(digit: u8) -> u32 {
    let digit = u32::from(digit);
    let decimal = mask(digit, u32::from(b'0'), u32::from(b'9'));
    let letter = mask(digit | 0x20, u32::from(b'a'), u32::from(b'f'));
    let number = digit.wrapping_sub(u32::from(b'0')) & decimal;
    let rest = (digit | 0x20).wrapping_sub(u32::from(b'a') - 10) & letter;
    number | rest | (!(decimal | letter) & 0xffff_ff00)
}

/// All bits if `low <= value <= high`, or none. All are below 2^31.
fn mask(value: u32, low: u32, high: u32) -> u32 {
    let outside = (value.wrapping_sub(low) | high.wrapping_sub(value)) >> 31;
    outside.wrapping_sub(1)
}

/// Appends a key as digits.
pub(crate) fn write(octets: &[u8; KEY_OCTETS], text: &mut String) {
    for octet in octets {
        text.push(digit(octet >> 4));
        text.push(digit(octet & 0xf));
    }
}

/// The digit of a value below 16.
fn digit(value: u8) -> char {
    let above_nine = 9_u8.wrapping_sub(value) >> 7;
    char::from(b'0' + value + above_nine * (b'a' - b'0' - 10))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_digit_is_read_and_every_other_octet_refused() {
        for octet in 0..=u8::MAX {
            let expected = char::from(octet).to_digit(16);
            let found = value(octet);
            assert_eq!((found < 256).then_some(found), expected, "{octet}");
        }
    }

    #[test]
    fn a_key_reads_back_as_written() {
        let mut octets = [0; KEY_OCTETS];
        for (octet, number) in octets.iter_mut().zip(0_u8..) {
            *octet = number.wrapping_mul(37);
        }
        let mut text = String::new();
        write(&octets, &mut text);
        assert_eq!(*parse(&text).unwrap(), octets);
        assert_eq!(*parse(&text.to_uppercase()).unwrap(), octets);
        assert!(parse(&text[1..]).is_none());
        assert!(parse(&text.replace('0', "g")).is_none());
    }
}
