# SPDX-License-Identifier: Apache-2.0
"""The kernel harness: a stock kernel under qemu, driven from Python (standard library only)."""
