# A client application's image: a small Debian, Python and Azure's libraries. For the demo and the tests.
FROM scratch
ADD debian.tar /
COPY root/ /
ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp PYTHONUNBUFFERED=1
USER 65532:65532
