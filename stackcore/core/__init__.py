"""The core process: dispatch cycle, control socket, telemetry."""
