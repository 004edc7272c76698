# SPDX-License-Identifier: Apache-2.0
# make torture          hundreds of SIGKILLs under load, and the simulator over many seeds;
#                       TORTURE_SECONDS for each case, TORTURE_SCALE for the simulator
# make torture SEED=N   the same draws again

TORTURE_SECONDS ?= 120
TORTURE_SCALE   ?= 1000

.PHONY: torture
torture: all $(SIM_BINS)
	@TORTURE_SECONDS=$(TORTURE_SECONDS) $(if $(SEED),SEED=$(SEED)) \
	    python3 tests/integration/run.py --build $(BUILD) test_kill
	@SIM_SCALE=$(TORTURE_SCALE) $(if $(SEED),SEED=$(SEED)) tests/lib/run-sims $(SIM_BINS)
