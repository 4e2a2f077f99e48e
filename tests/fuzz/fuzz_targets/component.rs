//! Arbitrary bytes as a plugin file. Besides bytes, whole sections are dropped, repeated, swapped and
//! changed, with the lengths around them kept right, so that much of it gets past the parser.
#![no_main]

use std::sync::LazyLock;

use aligner::plugin::{Interface, Source};
use aligner_fuzz::{RUNTIME, call, check, image, limits};
use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};

fuzz_target!(|bytes: &[u8]| {
    let source = Source::bytes("fuzz.wasm", bytes.to_vec());
    let loaded = match RUNTIME.open(&source, &limits()) {
        Ok(loaded) => loaded,
        Err(error) => return check(Err(error)),
    };
    for interface in Interface::ALL {
        if loaded.interfaces().contains(&interface) {
            check(call(&loaded, interface, false, "{}".into()));
        }
    }
});

/// The component that everything begins with.
static WHOLE: LazyLock<Vec<u8>> = LazyLock::new(image);

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    if size <= HEAD && WHOLE.len() <= max_size.min(data.len()) {
        data[..WHOLE.len()].copy_from_slice(&WHOLE);
        return WHOLE.len();
    }
    if seed % 4 == 0 {
        return fuzzer_mutate(data, size, max_size);
    }
    match mutated(&data[..size], seed / 4) {
        Some(new) if new.len() <= max_size.min(data.len()) => {
            data[..new.len()].copy_from_slice(&new);
            new.len()
        }
        _ => fuzzer_mutate(data, size, max_size),
    }
});

/// Magic number, version and layer.
const HEAD: usize = 8;

/// Changes one section of a module or component, or of one nested in it.
fn mutated(bytes: &[u8], seed: u32) -> Option<Vec<u8>> {
    let mut sections = split(bytes)?;
    let count = sections.len();
    let at = seed as usize / 8 % count.max(1);
    let other = seed as usize / 128 % count.max(1);
    match seed % 8 {
        0 => drop((count > 1).then(|| sections.remove(at))?),
        1 => sections.insert(other, sections.get(at)?.clone()),
        2 if count > 1 => sections.swap(at, other),
        _ => {
            let (_, body) = sections.get_mut(at)?;
            *body = match mutated(body, seed.rotate_right(7)) {
                Some(nested) => nested,
                None => {
                    let (size, most) = (body.len(), body.len() + 64);
                    let mut room = std::mem::take(body);
                    room.resize(most, 0);
                    let size = fuzzer_mutate(&mut room, size, most);
                    room.truncate(size);
                    room
                }
            };
        }
    }
    let mut out = bytes[..HEAD].to_vec();
    for (id, body) in sections {
        out.push(id);
        let mut rest = body.len();
        while rest >= 0x80 {
            out.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        out.push(rest as u8);
        out.extend(body);
    }
    Some(out)
}

/// Cuts a module or component into its sections; `None` where it is none, or damaged.
fn split(bytes: &[u8]) -> Option<Vec<(u8, Vec<u8>)>> {
    let (head, mut rest) = bytes.split_at_checked(HEAD)?;
    if !head.starts_with(b"\0asm") {
        return None;
    }
    let mut sections = Vec::new();
    while let Some((&id, mut tail)) = rest.split_first() {
        let (mut length, mut shift) = (0usize, 0);
        loop {
            let (&byte, after) = tail.split_first()?;
            tail = after;
            length |= usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
            if shift > 28 {
                return None;
            }
        }
        let (body, after) = tail.split_at_checked(length)?;
        sections.push((id, body.to_vec()));
        rest = after;
    }
    Some(sections)
}
