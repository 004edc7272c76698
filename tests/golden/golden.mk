# SPDX-License-Identifier: Apache-2.0
# Golden COW devices made by a real kernel, for machines without qemu.

.PHONY: check-golden
check-golden: $(BUILD)/snapctl
	@tests/golden/check-golden --build $(BUILD)
