# SPDX-License-Identifier: Apache-2.0
# The programs of others that speak NBD, against the plugins.

INTEROP := $(sort $(wildcard tests/interop/interop-*))
# whose content and moments are random
INTEROP_RANDOM := $(addprefix tests/interop/interop-,exerciser guard fio guest qemu-io)

.PHONY: check-interop torture-interop
check-interop: all
	@BUILD=$(BUILD) KERNEL_CACHE=$(KERNEL_CACHE) tests/interop/run-interop $(INTEROP)

# for SECONDS (600), more file systems and longer, ever other content
torture-interop: all
	@BUILD=$(BUILD) KERNEL_CACHE=$(KERNEL_CACHE) \
	    INTEROP_SECONDS=$(if $(SECONDS),$(SECONDS),600) \
	    tests/interop/run-interop $(INTEROP_RANDOM)
