# Azure's command-line tools, on a small Debian with Python. For the tests.
FROM scratch
ADD debian.tar /
COPY root/ /
ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp PYTHONUNBUFFERED=1
USER 65532:65532
