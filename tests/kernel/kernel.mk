# SPDX-License-Identifier: Apache-2.0
# The Linux kernel as judge of the format: a stock kernel under qemu.

KERNEL_CACHE ?= build/kernel
BLKIO := $(BUILD)/tests/kernel/guest/blkio
COW_DRIVER := $(BUILD)/tests/kernel/driver/cow_driver

# runs in the guest, which has no libraries: static, and without sanitizers
$(BLKIO): tests/kernel/guest/blkio.c
	@mkdir -p $(@D)
	@echo "  CC      $< (static)"
	@$(CC) -D_GNU_SOURCE -std=gnu17 -O2 $(WARN) -static -pthread -o $@ $<

objs_cow_driver := $(call obj_of,$(wildcard tests/kernel/driver/*.c))
$(COW_DRIVER): $(objs_cow_driver) $(call link_libs,cow)
	@echo "  LD      $@"
	@$(CC) $(LDFLAGS_ALL) -o $@ $(objs_cow_driver) -Wl,--start-group \
	    $(call link_libs,cow) -Wl,--end-group $(call sys_libs,cow)

KERNEL_NEEDS := $(BLKIO) $(COW_DRIVER) $(BUILD)/snapctl $(BUILD)/snapwired

.PHONY: check-kernel torture-kernel
check-kernel: $(KERNEL_NEEDS)
	@KERNEL_CACHE=$(KERNEL_CACHE) tests/kernel/run-kernel --build $(BUILD)

# for HOURS (or SECONDS), with ever new seeds that follow from SEED=; FROM=JOB goes on with a run
HOURS ?= 1
FROM  ?= 0
torture-kernel: $(KERNEL_NEEDS)
	@KERNEL_CACHE=$(KERNEL_CACHE) tests/kernel/run-kernel --build $(BUILD) \
	    --seconds $(if $(SECONDS),$(SECONDS),$$(( $(HOURS) * 3600 ))) --from $(FROM)
