# SPDX-License-Identifier: Apache-2.0
# nbdkit-snapwire-plugin.so and nbdkit-snapwire-guard-plugin.so: what they need of the client's
# layers is linked in and hidden; the names of nbdkit's server are left open.

NBDKIT_SO   := $(BUILD)/nbdkit-snapwire-plugin.so
GUARD_SO    := $(BUILD)/nbdkit-snapwire-guard-plugin.so
NBDKIT_MAP  := client/nbdkit/plugin.map
nbdkit_objs := $(call obj_of,$(sort $(filter-out client/nbdkit/guard%,\
                 $(wildcard client/nbdkit/*.c))))
guard_objs  := $(call obj_of,$(sort $(wildcard client/nbdkit/guard*.c)) \
                 client/nbdkit/server_args.c client/nbdkit/bell.c client/nbdkit/limit.c)

$(NBDKIT_SO): $(nbdkit_objs)
$(GUARD_SO): $(guard_objs)
$(NBDKIT_SO) $(GUARD_SO): $(call link_libs,nbdkit) $(NBDKIT_MAP)
	@echo "  LD      $@"
	@$(CC) $(LDFLAGS_ALL) -shared -Wl,--version-script,$(NBDKIT_MAP) -Wl,-z,relro,-z,now -o $@ \
	    $(filter %.o,$^) -Wl,--start-group $(call link_libs,nbdkit) -Wl,--end-group \
	    $(call sys_libs,nbdkit)

all: $(NBDKIT_SO) $(GUARD_SO)

# where Debian's nbdkit looks, unless the rest goes to a place of its own
nbdkitdir = $(if $(filter /usr /usr/local,$(prefix)),$(shell \
              $(PKG) --variable=plugindir nbdkit),$(libdir)/nbdkit/plugins)
.PHONY: install-nbdkit
install-nbdkit: $(NBDKIT_SO) $(GUARD_SO)
	install -d $(DESTDIR)$(nbdkitdir)
	install -m 644 $(NBDKIT_SO) $(GUARD_SO) $(DESTDIR)$(nbdkitdir)/
install: install-nbdkit

.PHONY: uninstall-nbdkit
uninstall-nbdkit:
	rm -f $(patsubst %,$(DESTDIR)$(nbdkitdir)/%,$(notdir $(NBDKIT_SO) $(GUARD_SO)))
