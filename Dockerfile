# geouq in a container.   docker build -t geouq .     docker run --rm -v "$PWD:/work" geouq geouq segment scene.tif -o water.tif
# For NVIDIA GPUs:        docker build -t geouq:cuda --build-arg TORCH=cu126 .      docker run --gpus all …
# As a worker of dask:    docker run geouq dask worker tcp://scheduler:8786 --nthreads 4
FROM python:3.12-slim
# GDAL in rasterio's wheel takes the system's expat, which slim images leave out
RUN apt-get update && apt-get install --yes --no-install-recommends libexpat1 && rm -rf /var/lib/apt/lists/*
# cpu, or the CUDA of torch's wheels (cu126, cu128 …; pytorch.org/get-started)
ARG TORCH=cpu
ARG INDEX=https://download.pytorch.org/whl
RUN python -m pip install --no-cache-dir torch --index-url ${INDEX}/${TORCH}
COPY . /geouq
RUN python -m pip install --no-cache-dir "/geouq[distributed,parquet,zarr,remote]" && geouq doctor
RUN useradd --create-home user
USER user
WORKDIR /work
# no entry point: what starts containers of a cluster gives the program and its arguments
CMD ["geouq", "--help"]
