# SPDX-License-Identifier: Apache-2.0
# make torture          hundreds of SIGKILLs under load, every allocation failing in turn, and the
#                       simulators over many seeds;
#                       TORTURE_SECONDS for each case and for sim_volume, TORTURE_SCALE for
#                       sim_store
# make torture SEED=N   the same draws again

TORTURE_SECONDS ?= 120
TORTURE_SCALE   ?= 1000

.PHONY: torture
torture: all $(SIM_BINS)
	@TORTURE_SECONDS=$(TORTURE_SECONDS) $(if $(SEED),SEED=$(SEED)) \
	    python3 tests/integration/run.py --build $(BUILD) test_kill torture_hosted
	@MEMORY_OUT=all $(if $(SEED),SEED=$(SEED)) \
	    python3 tests/integration/run.py --build $(BUILD) test_memory_out
	@SIM_SCALE=$(TORTURE_SCALE) SIM_SECONDS=$(TORTURE_SECONDS) $(if $(SEED),SEED=$(SEED)) tests/lib/run-sims $(SIM_BINS)
