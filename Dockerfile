# Run batchrunner as an ordinary user. Without arguments it runs the demo, which needs no key and no network:
#   docker build -t batchrunner .
#   docker run --rm --user "$(id -u):$(id -g)" -v "$PWD/output:/work/output" batchrunner
# A batch of your own, with its inputs in the current folder:
#   docker run --rm --user "$(id -u):$(id -g)" -e AIMLAPI_KEY -v "$PWD:/work" batchrunner run batch.yaml
FROM python:3.12-slim

WORKDIR /src
COPY pyproject.toml README.md LICENSE NOTICE constraints.txt ./
COPY batchrunner batchrunner
RUN pip install --no-cache-dir -c constraints.txt . && rm -rf /src

RUN useradd --create-home --uid 1000 batchrunner && mkdir -p /work/output && chown -R batchrunner /work
COPY --chown=batchrunner manifests /work/manifests
USER batchrunner
WORKDIR /work
ENTRYPOINT ["batchrunner"]
CMD ["run", "manifests/demo.yaml"]
