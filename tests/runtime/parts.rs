//! Adds parts to a component that no compiler would make, behind its own.

use wasmparser::{Parser, Payload};

/// Appends a section.
pub fn section(bytes: &mut Vec<u8>, id: u8, body: &[u8]) {
    bytes.push(id);
    number(bytes, body.len());
    bytes.extend(body);
}

/// An unsigned LEB128 number.
fn number(bytes: &mut Vec<u8>, mut rest: usize) {
    while rest >= 0x80 {
        bytes.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    bytes.push(rest as u8);
}

/// Nests another component in a component, and instantiates it.
fn with_component(mut bytes: Vec<u8>, text: &str) -> Vec<u8> {
    let (mut depth, mut nested) = (0_usize, 0_usize);
    for payload in Parser::new(0).parse_all(&bytes) {
        match payload.expect("the guest is valid") {
            Payload::ModuleSection { .. } => depth += 1,
            Payload::ComponentSection { .. } => {
                nested += usize::from(depth == 0);
                depth += 1;
            }
            Payload::End(_) => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    section(&mut bytes, 4, &wat::parse_str(text).expect("the test's own text is valid"));
    // (instance (instantiate …))
    let mut instances = vec![1, 0];
    number(&mut instances, nested);
    instances.push(0);
    section(&mut bytes, 5, &instances);
    bytes
}

/// Adds a module of nothing, instantiated many times.
pub fn with_instances(bytes: Vec<u8>, count: usize) -> Vec<u8> {
    let instances = "(core instance (instantiate $m))".repeat(count);
    with_component(bytes, &format!("(component (core module $m) {instances})"))
}

/// Adds a resource of the component's own, and a module that makes handles of it for ever as it
/// starts.
pub fn with_handles(bytes: Vec<u8>) -> Vec<u8> {
    with_component(
        bytes,
        r#"(component
            (type $r (resource (rep i32)))
            (core func $new (canon resource.new $r))
            (core module $m
                (import "" "new" (func $new (param i32) (result i32)))
                (func $start (loop $again (drop (call $new (i32.const 0))) (br $again)))
                (start $start))
            (core instance (instantiate $m (with "" (instance (export "new" (func $new)))))))"#,
    )
}
