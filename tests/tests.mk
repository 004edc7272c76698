# SPDX-License-Identifier: Apache-2.0
# Unit tests: tests/unit/<layer>/test_<module>.c links the library of that layer,
# those below it and tests/lib/*.c, nothing else. `make unit-<layer>` runs one
# layer's, `make T=test_x unit-one` … see `make help`.

TESTLIB    := $(BUILD)/lib/libtest.a
objs_test  := $(call obj_of,$(sort $(wildcard tests/lib/*.c)))
$(TESTLIB): $(objs_test)
	@mkdir -p $(@D)
	@rm -f $@
	@ar rcs $@ $^

daemon_layer := service
UNIT_LAYERS := base io cow net shard registry volume service client host cli nbdkit
unit_src    = $(sort $(wildcard tests/unit/$(1)/test_*.c))
unit_bin    = $(patsubst %.c,$(BUILD)/%,$(call unit_src,$(1)))
UNIT_BINS  := $(foreach l,$(UNIT_LAYERS),$(call unit_bin,$(l)))

define unit_rules
$(call unit_bin,$(1)): $(BUILD)/tests/unit/$(1)/%: $(BUILD)/tests/unit/$(1)/%.o $(TESTLIB) $(call link_libs,$(1))
	@echo "  LD      $$@"
	@$(CC) $(LDFLAGS_ALL) -o $$@ $$< -Wl,--start-group $(TESTLIB) $(call link_libs,$(1)) \
	    -Wl,--end-group $(call sys_libs,$(1)) -lcmocka
$(if $(filter-out base io cow,$(1)),$(addsuffix .o,$(call unit_bin,$(1))): | $(PB_H))
.PHONY: unit-$(1)
unit-$(1): $(call unit_bin,$(1))
	@tests/lib/run-units $$^
endef
$(foreach l,$(UNIT_LAYERS),$(eval $(call unit_rules,$(l))))

# simulators: tests/sim/sim_<noun>.c with tests/sim/<noun>/*.c, linked with the layer that it is
# about and those below
SIM_BINS := $(patsubst %.c,$(BUILD)/%,$(sort $(wildcard tests/sim/sim_*.c)))
sim_objs  = $(call obj_of,tests/sim/sim_$(1).c $(sort $(wildcard tests/sim/$(1)/*.c)))
define sim_rules
$(BUILD)/tests/sim/sim_$(1): $(call sim_objs,$(1)) $(TESTLIB) $(call link_libs,$(2))
	@echo "  LD      $$@"
	@$(CC) $(LDFLAGS_ALL) -o $$@ $(call sim_objs,$(1)) -Wl,--start-group $(TESTLIB) \
	    $(call link_libs,$(2)) -Wl,--end-group $(call sys_libs,$(2)) -lcmocka
endef
$(eval $(call sim_rules,store,cow))
$(eval $(call sim_rules,volume,volume))
$(call sim_objs,volume): | $(PB_H)

.PHONY: tests-built check-unit check-sim
tests-built: $(UNIT_BINS) $(SIM_BINS)
check-unit: $(UNIT_BINS)
	@tests/lib/run-units $^
check-sim: $(SIM_BINS)
	@tests/lib/run-sims $^

.PHONY: check check-integration check-sanitize
check:
	@tests/lib/check
check-integration: all
	@python3 tests/integration/run.py --build $(BUILD)

# The suites once more, under the sanitizers, each in a build folder of its own.
check-sanitize:
	@tests/lib/check-sanitize
