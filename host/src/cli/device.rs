//! `--device`.

use std::{fmt, str::FromStr};

use super::CliError;
use crate::model::backend::{AnyDevice, BackendError, WeightType};

/// Where models run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Device {
    /// The best that this build and machine have.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// The NVIDIA GPU with this number.
    Cuda(usize),
}

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> Result<Device, String> {
        match text {
            "auto" => Ok(Device::Auto),
            "cpu" => Ok(Device::Cpu),
            "cuda" => Ok(Device::Cuda(0)),
            _ => text
                .strip_prefix("cuda:")
                .filter(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
                .and_then(|number| number.parse().ok())
                .map(Device::Cuda)
                .ok_or_else(|| "expected `auto`, `cpu`, `cuda` or `cuda:N`".to_owned()),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Auto => f.write_str("auto"),
            Device::Cpu => f.write_str("cpu"),
            Device::Cuda(number) => write!(f, "cuda:{number}"),
        }
    }
}

impl Device {
    /// Returns the device of a rank, where rank 0 works on one of this class: the processor too, or as many GPUs
    /// further on as its number among the ranks of this host.
    pub fn of_rank(self, local_rank: usize, class: &str) -> Device {
        match self {
            Device::Cuda(first) => Device::Cuda(first + local_rank),
            Device::Auto if !class.starts_with("cpu") => Device::Cuda(local_rank),
            _ => Device::Cpu,
        }
    }

    /// Opens the device for weights of this type; fails with the reason where it is not there, or
    /// cannot work with them.
    pub fn resolve(self, weight_type: WeightType) -> Result<AnyDevice, CliError> {
        let int8 = weight_type == WeightType::Int8;
        match self {
            Device::Cpu => Ok(AnyDevice::cpu()),
            Device::Auto if int8 => Ok(AnyDevice::cpu()),
            Device::Auto => Ok(AnyDevice::cuda(0, weight_type).unwrap_or_else(|error| {
                // Hours instead of minutes, where the build was made for a GPU.
                if cfg!(feature = "cuda") {
                    tracing::warn!("runs on the CPU, as `--device cpu` would: {error}");
                }
                AnyDevice::cpu()
            })),
            Device::Cuda(_) if int8 => {
                Err(CliError::usage(format!("device `{self}` does not work with weights in int8"))
                    .hint("bf16 takes half the memory of f32 there; int8 is for `--device cpu`"))
            }
            Device::Cuda(ordinal) => AnyDevice::cuda(ordinal, weight_type).map_err(|error| {
                let message = match error {
                    BackendError::Device { message, .. } => message,
                    error => error.to_string(),
                };
                CliError::usage(format!("device `{self}` is not available: {message}"))
                    .hint("use `--device cpu`, or leave `--device` out")
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read_and_written() {
        let check = |text: &str, expected: Option<Device>| {
            assert_eq!(text.parse::<Device>().ok(), expected, "{text}");
            if let Some(device) = expected {
                assert_eq!(device.to_string(), text);
            }
        };
        check("auto", Some(Device::Auto));
        check("cpu", Some(Device::Cpu));
        check("cuda:0", Some(Device::Cuda(0)));
        assert_eq!("cuda".parse(), Ok(Device::Cuda(0)));
        check("cuda:12", Some(Device::Cuda(12)));
        for text in
            ["", "cuda0", "cuda:", "cuda:-1", "cuda:+1", "CPU", "gpu", "cuda:99999999999999999999"]
        {
            check(text, None);
        }
    }

    #[test]
    fn each_rank_has_a_gpu_of_its_own() {
        let (cpu, cuda) = ("cpu f32 avx2", "cuda bf16 sm_90");
        assert_eq!(Device::Auto.of_rank(3, cuda), Device::Cuda(3));
        assert_eq!(Device::Auto.of_rank(3, cpu), Device::Cpu);
        assert_eq!(Device::Cpu.of_rank(1, cpu), Device::Cpu);
        assert_eq!(Device::Cuda(4).of_rank(1, cuda), Device::Cuda(5));
    }

    #[test]
    fn a_gpu_is_refused_with_a_way_out() {
        let refused = |device: Device, weight_type| device.resolve(weight_type).unwrap_err();
        // No machine has so many.
        let error = refused(Device::Cuda(1000), WeightType::F32);
        assert_eq!(error.code, super::super::exit::USAGE);
        let text = error.to_string();
        assert!(text.contains("`cuda:1000`") && text.contains("--device cpu"), "{text}");
        assert!(refused(Device::Cuda(0), WeightType::Int8).to_string().contains("int8"));
        for device in [Device::Cpu, Device::Auto] {
            assert!(device.resolve(WeightType::Int8).unwrap().shares_memory());
        }
    }
}
