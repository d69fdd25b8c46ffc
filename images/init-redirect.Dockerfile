# Context: the static program, the CA roots of a Debian, and its iptables with libraries and plugins.
FROM scratch
COPY iptables/ /
COPY ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY init-redirect /init-redirect
# iptables-legacy needs a lock file that it can write; the root file system is read-only.
ENV PATH=/usr/sbin XTABLES_LOCKFILE=/dev/shm/xtables.lock
# Changing rules needs root; the pod's security context takes every other right away.
USER 0:0
ENTRYPOINT ["/init-redirect"]
