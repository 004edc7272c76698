# SPDX-License-Identifier: Apache-2.0
# The programs of others that speak NBD, against the plugins.

INTEROP := $(sort $(wildcard tests/interop/interop-*))
.PHONY: check-interop
check-interop: all
	@BUILD=$(BUILD) tests/interop/run-interop $(INTEROP)
