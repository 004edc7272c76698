# SPDX-License-Identifier: Apache-2.0
# bench-chan: MiB/s of a channel on loopback beside a bare TLS pipe.
BENCH_CHAN := $(BUILD)/tests/bench/bench_chan
$(BENCH_CHAN): $(BUILD)/tests/bench/bench_chan.o $(TESTLIB) $(call link_libs,net)
	@echo "  LD      $@"
	@$(CC) $(LDFLAGS_ALL) -o $@ $< -Wl,--start-group $(TESTLIB) $(call link_libs,net) \
	    -Wl,--end-group $(call sys_libs,net) -lcmocka
$(BENCH_CHAN:=.o): | $(PB_H)
.PHONY: bench-chan
bench-chan: $(BENCH_CHAN)
	@$(BENCH_CHAN)
