"""Signal processing: conversion, mixing, resampling, ring buffers. No I/O, no clocks."""
