"""The published model families, written as plugins like any stranger's: they import `snn_perception.api` alone."""
