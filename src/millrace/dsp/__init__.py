"""Signal maths: conversion, mixing, resampling, rings. No I/O, no clocks."""
