//! Gives plugins in JavaScript seeds of 64 bits. The engine in their components makes a number of a `u64`,
//! which holds 53.
//!
//! Such a component has two core modules that matter: the engine, and a small one that takes the contract's
//! values apart and hands them to the engine part by part, by calls of `wit_dylib_push_u64` and its like. Here
//! that small one is rewritten: where it pushes a `u64`, it pushes a list of the two halves, the low one
//! first, of which `sdk/js/interfaces.js` makes a BigInt.

use wasmparser::{
    BinaryReader, BinaryReaderError, CodeSectionReader, CompositeInnerType, FunctionSectionReader,
    ImportSectionReader, Operator, TypeRef, TypeSectionReader, ValType,
};

const PUSH_U64: &str = "wit_dylib_push_u64";

/// The sections of modules and components that are looked into.
mod section {
    pub const TYPE: u8 = 1;
    pub const IMPORT: u8 = 2;
    pub const FUNCTION: u8 = 3;
    pub const CODE: u8 = 10;
    /// Of a component.
    pub const CORE_MODULE: u8 = 1;
    pub const COMPONENT: u8 = 4;
}

/// Returns the component with its seeds whole. The message says what is not as it was expected.
pub fn whole(component: &[u8]) -> Result<Vec<u8>, String> {
    let mut rewritten = 0;
    let whole = component_with(component, &mut rewritten).map_err(|error| error.to_string())?;
    match rewritten {
        1 => Ok(whole),
        _ => Err(format!("{rewritten} of its modules call `{PUSH_U64}`, expected 1")),
    }
}

/// Returns a component with every module that pushes a `u64` rewritten.
fn component_with(component: &[u8], rewritten: &mut u32) -> Result<Vec<u8>, BinaryReaderError> {
    let mut out = Vec::from(component.get(..8).unwrap_or_default());
    for (id, body) in sections(component)? {
        let body = match id {
            section::COMPONENT => component_with(body, rewritten)?,
            section::CORE_MODULE => match Pushing::of(body)? {
                Some(pushing) => {
                    *rewritten += 1;
                    pushing.rewrite(body)?
                }
                None => body.to_vec(),
            },
            _ => body.to_vec(),
        };
        put_section(&mut out, id, &body);
    }
    Ok(out)
}

/// Returns the sections of a module or a component: their ids and what is in them.
fn sections(binary: &[u8]) -> Result<Vec<(u8, &[u8])>, BinaryReaderError> {
    let mut reader = BinaryReader::new(binary.get(8..).unwrap_or_default(), 8);
    let mut sections = Vec::new();
    while !reader.eof() {
        let id = reader.read_u8()?;
        let size = reader.read_var_u32()?;
        sections.push((id, reader.read_bytes(size as usize)?));
    }
    Ok(sections)
}

/// A module that pushes a `u64`.
struct Pushing {
    /// The function that does, and its type.
    push_u64: u32,
    kind: u32,
    /// What the halves are pushed with.
    push_list: u32,
    push_u32: u32,
    append: u32,
    /// The function to be added.
    halves: u32,
}

impl Pushing {
    /// Looks at a module. Returns nothing where it pushes no `u64`, or not as is known here.
    fn of(module: &[u8]) -> Result<Option<Pushing>, BinaryReaderError> {
        let (mut types, mut imported, mut defined) = (Vec::new(), Vec::new(), 0);
        for (id, body) in sections(module)? {
            let reader = BinaryReader::new(body, 0);
            match id {
                section::TYPE => {
                    for group in TypeSectionReader::new(reader)? {
                        types.extend(group?.into_types().map(|it| it.composite_type.inner));
                    }
                }
                section::IMPORT => {
                    for import in ImportSectionReader::new(reader)?.into_imports() {
                        let import = import?;
                        if let TypeRef::Func(kind) = import.ty {
                            imported.push((import.name, kind));
                        }
                    }
                }
                section::FUNCTION => defined = FunctionSectionReader::new(reader)?.count(),
                _ => {}
            }
        }
        let find = |name: &str, parameters: &[ValType], results: &[ValType]| {
            let place = imported.iter().position(|(it, _)| *it == name)?;
            let kind = imported[place].1;
            match types.get(kind as usize)? {
                CompositeInnerType::Func(it)
                    if it.params() == parameters && it.results() == results =>
                {
                    Some((place as u32, kind))
                }
                _ => None,
            }
        };
        use ValType::{I32, I64};
        let found = (|| {
            let (push_u64, kind) = find(PUSH_U64, &[I32, I64], &[])?;
            let (push_list, _) = find("wit_dylib_push_list", &[I32, I32, I32, I32], &[I32])?;
            let (push_u32, _) = find("wit_dylib_push_u32", &[I32, I32], &[])?;
            let (append, _) = find("wit_dylib_list_append", &[I32, I32], &[])?;
            let halves = imported.len() as u32 + defined;
            Some(Pushing { push_u64, kind, push_list, push_u32, append, halves })
        })();
        Ok(found)
    }

    /// Returns the module with the function that pushes halves in it, called wherever a `u64` was pushed.
    fn rewrite(&self, module: &[u8]) -> Result<Vec<u8>, BinaryReaderError> {
        let mut out = Vec::from(&module[..8]);
        for (id, body) in sections(module)? {
            let reader = BinaryReader::new(body, 0);
            let mut changed = Vec::new();
            match id {
                section::FUNCTION => {
                    let kinds = FunctionSectionReader::new(reader)?;
                    put_number(&mut changed, kinds.count() + 1);
                    for kind in kinds {
                        put_number(&mut changed, kind?);
                    }
                    put_number(&mut changed, self.kind);
                }
                section::CODE => {
                    let functions = CodeSectionReader::new(reader)?;
                    put_number(&mut changed, functions.count() + 1);
                    for function in functions {
                        let function = function?;
                        let code = self.redirect(body, &function)?;
                        put_sized(&mut changed, &code);
                    }
                    put_sized(&mut changed, &self.push_halves());
                }
                _ => changed.extend_from_slice(body),
            }
            put_section(&mut out, id, &changed);
        }
        Ok(out)
    }

    /// Returns a function with calls of the old function made calls of the new one. `all`: the bytes that
    /// the function's offsets count in.
    fn redirect(
        &self,
        all: &[u8],
        function: &wasmparser::FunctionBody<'_>,
    ) -> Result<Vec<u8>, BinaryReaderError> {
        let range = function.range();
        let (mut out, mut copied) = (Vec::new(), range.start as usize);
        let mut operators = function.get_operators_reader()?;
        while !operators.eof() {
            let (operator, start) = operators.read_with_offset()?;
            if matches!(operator, Operator::Call { function_index } if function_index == self.push_u64)
            {
                out.extend_from_slice(&all[copied..start as usize]);
                put_call(&mut out, self.halves);
                copied = operators.original_position() as usize;
            }
        }
        out.extend_from_slice(&all[copied..range.end as usize]);
        Ok(out)
    }

    /// Returns the body of a function of a call's context and a `u64`.
    fn push_halves(&self) -> Vec<u8> {
        const LOCAL_GET: u8 = 0x20;
        const I32_CONST: u8 = 0x41;
        const I64_CONST: u8 = 0x42;
        const I64_SHIFT_RIGHT: u8 = 0x88;
        const I32_WRAP: u8 = 0xa7;
        const DROP: u8 = 0x1a;
        const END: u8 = 0x0b;
        // No locals. Of the call, of any type of list, of no bytes that are there already, two elements; the
        // engine says whether it took the bytes.
        let mut code = vec![0, LOCAL_GET, 0, I32_CONST, 0, I32_CONST, 0, I32_CONST, 2];
        put_call(&mut code, self.push_list);
        code.push(DROP);
        for shift in [0, 32] {
            code.extend([LOCAL_GET, 0, LOCAL_GET, 1, I64_CONST, shift, I64_SHIFT_RIGHT, I32_WRAP]);
            put_call(&mut code, self.push_u32);
            code.extend([LOCAL_GET, 0, I32_CONST, 0]);
            put_call(&mut code, self.append);
        }
        code.push(END);
        code
    }
}

fn put_call(out: &mut Vec<u8>, function: u32) {
    out.push(0x10);
    put_number(out, function);
}

fn put_section(out: &mut Vec<u8>, id: u8, body: &[u8]) {
    out.push(id);
    put_sized(out, body);
}

fn put_sized(out: &mut Vec<u8>, body: &[u8]) {
    put_number(out, body.len() as u32);
    out.extend_from_slice(body);
}

/// Appends a number as LEB128.
fn put_number(out: &mut Vec<u8>, mut number: u32) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

#[cfg(test)]
mod tests {
    use wasmparser::{Validator, WasmFeatures};

    use super::*;

    /// A module as componentize-qjs has it, within two components.
    const COMPONENT: &str = r#"(component (component (core module
        (import "env" "wit_dylib_push_u32" (func (param i32 i32)))
        (import "env" "wit_dylib_push_u64" (func $push (param i32 i64)))
        (import "env" "wit_dylib_push_list" (func (param i32 i32 i32 i32) (result i32)))
        (import "env" "wit_dylib_list_append" (func (param i32 i32)))
        (func (export "seed") (param i64)
            (call $push (i32.const 7) (local.get 0))
            (call $push (i32.const 7) (i64.const 1))))))"#;

    #[test]
    fn seeds_are_pushed_as_halves() {
        let component = wat::parse_str(COMPONENT).unwrap();
        let whole = whole(&component).unwrap();
        Validator::new_with_features(WasmFeatures::all()).validate_all(&whole).unwrap();
        let (_, inner) = sections(&whole).unwrap()[0];
        let (_, module) = sections(inner).unwrap()[0];

        let engine = wasmtime::Engine::default();
        let module = wasmtime::Module::new(&engine, module).unwrap();
        let mut store = wasmtime::Store::new(&engine, Vec::<String>::new());
        let mut linker = wasmtime::Linker::new(&engine);
        type Caller<'a> = wasmtime::Caller<'a, Vec<String>>;
        let list = |mut it: Caller<'_>, call: i32, _: i32, _: i32, length: i32| {
            it.data_mut().push(format!("list of {length} in {call}"));
            0
        };
        let half = |mut it: Caller<'_>, _: i32, half: i32| {
            it.data_mut().push(format!("{:x}", half as u32))
        };
        let append = |mut it: Caller<'_>, _: i32, _: i32| it.data_mut().push("append".into());
        let number = |mut it: Caller<'_>, _: i32, _: i64| it.data_mut().push("u64".into());
        linker.func_wrap("env", "wit_dylib_push_list", list).unwrap();
        linker.func_wrap("env", "wit_dylib_push_u32", half).unwrap();
        linker.func_wrap("env", "wit_dylib_list_append", append).unwrap();
        linker.func_wrap("env", "wit_dylib_push_u64", number).unwrap();
        let instance = linker.instantiate(&mut store, &module).unwrap();
        let seed = instance.get_typed_func::<i64, ()>(&mut store, "seed").unwrap();
        seed.call(&mut store, 0x8123_4567_fedc_ba98_u64 as i64).unwrap();
        assert_eq!(
            store.data().join(", "),
            "list of 2 in 7, fedcba98, append, 81234567, append, \
             list of 2 in 7, 1, append, 0, append"
        );
    }

    #[test]
    fn a_component_of_another_form_is_refused() {
        let check = |text: &str| {
            let error = whole(&wat::parse_str(text).unwrap()).unwrap_err();
            assert!(error.contains("expected 1"), "{error}");
        };
        check("(component)");
        check(&COMPONENT.replace("push_u64", "push_number"));
        check(&COMPONENT.replace("(result i32)", ""));
        assert!(whole(b"\0asm\x0d\0\x01\0\x04\xff").is_err());
    }
}
