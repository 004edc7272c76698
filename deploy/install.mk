# SPDX-License-Identifier: Apache-2.0
# make install: programs, library, manual pages, completions, unit, example configuration.

bindir      ?= $(prefix)/bin
libdir      ?= $(prefix)/lib
includedir  ?= $(prefix)/include
mandir      ?= $(prefix)/share/man
sysconfdir  ?= $(if $(filter /usr,$(prefix)),/etc,$(prefix)/etc)
unitdir     ?= $(prefix)/lib/systemd/system
sysusersdir ?= $(prefix)/lib/sysusers.d

MAN_PAGES := $(sort $(wildcard docs/man/*.[1-8]))
EXPAND    := sed -e 's|@bindir@|$(bindir)|g' -e 's|@sysconfdir@|$(sysconfdir)|g' \
             -e 's|@prefix@|$(prefix)|g' -e 's|@libdir@|$(libdir)|g' \
             -e 's|@includedir@|$(includedir)|g' -e 's|@VERSION@|$(VERSION)|g'

# the shared library is found at once; packages do that by themselves
.PHONY: install
install: all install-lib
	$(if $(DESTDIR),,-ldconfig)
	install -d $(DESTDIR)$(bindir) $(DESTDIR)$(unitdir) $(DESTDIR)$(sysusersdir) \
	    $(DESTDIR)$(sysconfdir)/snapwire $(DESTDIR)$(prefix)/share/doc/snapwire \
	    $(DESTDIR)$(prefix)/share/bash-completion/completions \
	    $(DESTDIR)$(prefix)/share/zsh/site-functions
	install -m 755 $(PROGRAMS) $(DESTDIR)$(bindir)/
	$(EXPAND) deploy/systemd/snapwired.service.in > $(DESTDIR)$(unitdir)/snapwired.service
	install -m 644 deploy/systemd/snapwire.sysusers $(DESTDIR)$(sysusersdir)/snapwire.conf
	$(EXPAND) deploy/snapwired.conf.in > $(DESTDIR)$(sysconfdir)/snapwire/snapwired.conf.example
	install -m 644 deploy/completions/snapctl.bash \
	    $(DESTDIR)$(prefix)/share/bash-completion/completions/snapctl
	install -m 644 deploy/completions/_snapctl $(DESTDIR)$(prefix)/share/zsh/site-functions/
	install -d $(DESTDIR)$(prefix)/share/doc/snapwire/docs/plots
	install -m 644 README.md LICENSE $(DESTDIR)$(prefix)/share/doc/snapwire/
	install -m 644 docs/*.md $(DESTDIR)$(prefix)/share/doc/snapwire/docs/
	install -m 644 docs/plots/*.svg $(DESTDIR)$(prefix)/share/doc/snapwire/docs/plots/
	for page in $(MAN_PAGES); do \
	    section=$${page##*.}; \
	    install -D -m 644 $$page $(DESTDIR)$(mandir)/man$$section/$${page##*/} || exit 1; \
	done
