# SPDX-License-Identifier: Apache-2.0
# nbdkit-snapwire-guard-plugin.so, made as the other plugin is; see snapwire.mk.

GUARD_SO   := $(BUILD)/nbdkit-snapwire-guard-plugin.so
guard_objs := $(call obj_of,$(sort $(wildcard client/nbdkit/guard*.c)) \
                client/nbdkit/server_args.c)

$(GUARD_SO): $(guard_objs) $(call link_libs,cli) client/nbdkit/plugin.map
	@echo "  LD      $@"
	@$(CC) $(LDFLAGS_ALL) -shared -Wl,--version-script,client/nbdkit/plugin.map \
	    -Wl,-z,relro,-z,now -o $@ $(guard_objs) -Wl,--start-group $(call link_libs,cli) \
	    -Wl,--end-group $(call sys_libs,cli)

all: $(GUARD_SO)

.PHONY: install-guard
install-guard: $(GUARD_SO)
	install -d $(DESTDIR)$(nbdkitdir)
	install -m 644 $(GUARD_SO) $(DESTDIR)$(nbdkitdir)/
install: install-guard
