//! Compiles the CUDA kernels where the `cuda` feature is on; else there is nothing to do.
//!
//! `NVCC` names the compiler, else it is that of `CUDA_HOME`, else the one on the path.
//! `CUDA_COMPUTE_CAP` lists the chips to build for, for example `90`; `80,90` where it is not set.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    let here = env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets `CARGO_MANIFEST_DIR`");
    let kernels = Path::new(&here).join("src/model/backend/cuda/kernels");
    for variable in ["NVCC", "CUDA_HOME", "CUDA_COMPUTE_CAP"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    for file in fs::read_dir(&kernels).expect("the kernels are there") {
        println!("cargo::rerun-if-changed={}", file.expect("a file").path().display());
    }
    let nvcc =
        env::var_os("NVCC").map(PathBuf::from).unwrap_or_else(|| match env::var_os("CUDA_HOME") {
            Some(home) => Path::new(&home).join("bin/nvcc"),
            None => "nvcc".into(),
        });
    let out = env::var_os("OUT_DIR").expect("cargo sets `OUT_DIR`");
    let chips = env::var("CUDA_COMPUTE_CAP").unwrap_or_else(|_| "80,90".into());
    let chips: Vec<&str> = chips.split(',').map(str::trim).collect();
    // For the program to say.
    println!("cargo::rustc-env=CUDA_COMPUTE_CAP={}", chips.join(","));
    let mut command = Command::new(&nvcc);
    command.args(["-O3", "-std=c++17", "-fatbin", "-o"]);
    command.arg(Path::new(&out).join("kernels.fatbin"));
    for chip in chips {
        command.arg(format!("-gencode=arch=compute_{chip},code=sm_{chip}"));
    }
    match command.arg(kernels.join("kernels.cu")).status() {
        Ok(status) if status.success() => {}
        Ok(status) => panic!("`{}` fails on the kernels: {status}", nvcc.display()),
        Err(error) => panic!(
            "the feature `cuda` needs NVIDIA's compiler, but `{}` does not run: {error}; \
             set NVCC or CUDA_HOME",
            nvcc.display()
        ),
    }
}
