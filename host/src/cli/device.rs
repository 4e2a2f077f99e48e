//! `--device`.

use std::{fmt, str::FromStr};

use super::CliError;

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
            _ => text
                .strip_prefix("cuda:")
                .filter(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
                .and_then(|number| number.parse().ok())
                .map(Device::Cuda)
                .ok_or_else(|| {
                    "expected `auto`, `cpu` or `cuda:N`, for example `cuda:0`".to_owned()
                }),
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
    /// Returns the device that this build runs on; fails for one that it does not have.
    pub fn resolve(self) -> Result<Device, CliError> {
        match self {
            Device::Auto | Device::Cpu => Ok(Device::Cpu),
            Device::Cuda(_) => Err(CliError::usage(format!(
                "device `{self}` is not available: this build runs on the CPU only"
            ))
            .hint("use `--device cpu`, or leave `--device` out")),
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
        check("cuda:12", Some(Device::Cuda(12)));
        for text in
            ["", "cuda", "cuda:", "cuda:-1", "cuda:+1", "CPU", "gpu", "cuda:99999999999999999999"]
        {
            check(text, None);
        }
    }

    #[test]
    fn a_gpu_is_refused_with_a_way_out() {
        assert_eq!(Device::Auto.resolve(), Ok(Device::Cpu));
        let error = Device::Cuda(1).resolve().unwrap_err();
        assert_eq!(error.code, super::super::exit::USAGE);
        assert!(
            error.to_string().contains("`cuda:1`") && error.to_string().contains("--device cpu")
        );
    }
}
